"""A subscriber to server-sent events with Python's httpx-sse, which leaves coming back to its user: the loop is the one that its README shows.

It prints the data of every event, one a line: Hark's frames. When the stream ends or breaks it waits as long as Hark said, and goes on with
Last-Event-ID. An answer that is no stream of events ends it with an error.

Usage: sse_subscriber.py URL
"""

import sys
import time

import httpx
from httpx_sse import connect_sse


def main(url):
    last_event_id, retry_ms = "", 1000
    with httpx.Client(timeout=httpx.Timeout(10, read=60)) as client:
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    source.response.raise_for_status()
                    for event in source.iter_sse():
                        last_event_id = event.id or last_event_id
                        retry_ms = event.retry if event.retry is not None else retry_ms
                        print(event.data, flush=True)
            except httpx.TransportError as reason:
                print(f"after {last_event_id}: {reason!r}", file=sys.stderr)
            time.sleep(retry_ms / 1000)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main(sys.argv[1])
