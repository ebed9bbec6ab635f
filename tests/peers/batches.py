"""A publisher that sends batches of lines with Python's own HTTP client, as a log shipper does, all on one connection.

Usage: batches.py HOST:PORT TOPIC BATCHES LINES
"""

import http.client
import json
import sys


def main(address, topic, batches, lines):
    connection = http.client.HTTPConnection(address)
    connection.connect()
    socket = connection.sock
    for batch in range(batches):
        rows = [json.dumps({"batch": batch, "line": line}).encode() + b"\n" for line in range(lines)]
        # With a length, and as chunks.
        body = b"".join(rows) if batch % 2 == 0 else iter(rows)
        connection.request("POST", f"/v1/topics/{topic}/messages", body, {"Content-Type": "application/x-ndjson"})
        response = connection.getresponse()
        answers = [json.loads(answer) for answer in response.read().splitlines()]
        kept = [answer for answer in answers if answer.get("duplicate") is False]
        if response.status != 200 or len(kept) != lines:
            sys.exit(f"batch {batch}: {response.status}, {len(kept)} of {lines} kept")
        if connection.sock is not socket:
            sys.exit(f"batch {batch} ended the connection: {response.getheaders()}")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
