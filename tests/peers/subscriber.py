"""A subscriber as somebody would write it who has read the wire's README and has Python's websockets.

It prints every message frame as it came, one a line, goes on with its cursor when the connection breaks, and ends when
it has as many messages as it was told to wait for. A gap, or a message out of order, ends it with an error.

Usage: subscriber.py URL TOPIC COUNT [CURSOR]
"""

import asyncio
import json
import sys

import websockets


async def main(url, topic, count, cursor=None):
    epoch, offset = cursor.split(":") if cursor else (None, 0)
    offset = int(offset)
    last = offset + count
    while offset < last:
        try:
            async with websockets.connect(url, subprotocols=["hark.v1.json"]) as socket:
                start = "earliest" if epoch is None else {"after": f"{epoch}:{offset}"}
                await socket.send(json.dumps({"type": "subscribe", "id": 1, "topic": topic, "from": start}))
                async for text in socket:
                    frame = json.loads(text)
                    kind = frame["type"]
                    if kind == "message":
                        if frame["offset"] != offset + 1:
                            sys.exit(f"offset {frame['offset']} came after {offset}")
                        offset = frame["offset"]
                        print(text, flush=True)
                        if offset == last:
                            return
                    elif kind == "subscribed":
                        epoch, position = frame["cursor"].split(":")
                        if int(position) != offset:
                            sys.exit(f"subscribed at {position}, not at {offset}")
                    elif kind in ("gap", "error"):
                        sys.exit(text)
        except (OSError, websockets.ConnectionClosed, websockets.InvalidHandshake) as reason:
            print(f"after {offset}: {reason!r}", file=sys.stderr)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
