#!/usr/bin/env python3
"""Reads the golden files with nothing but README.md in hand: the bincode form must say what the JSON form says.

Independent of the Rust code on purpose: it shows that the page is enough to write a client. Needs Python 3 alone.
Exits with 1 and names the file where the two forms differ.
"""

import base64
import datetime
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent


def fields_of(text):
    return [tuple(field.split(": ")) for field in text.split(", ")]


def fields_of_types():
    """The table of "The bincode form" in the README: byte -> (type, [(field, its type)])."""
    rows = re.findall(r"^\| `([0-9a-f]{2})` \| `(\w+)` \| `(.+)` \|$", (HERE / "README.md").read_text("utf-8"), re.M)
    return {
        int(byte, 16): (kind, fields_of(fields))
        for byte, kind, fields in rows
    }


def fields_of_parts():
    """The types in the README that are made of fields: type -> [(field, its type)]."""
    page = (HERE / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(receipt|identity)` \| `(.+)` \|$", page, re.M)
    return {name: fields_of(fields) for name, fields in rows}


PARTS = fields_of_parts()


class Reader:
    """Takes values from the front of the bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise ValueError(f"{count} bytes expected at {self.at}, {len(part)} there")
        self.at += count
        return part

    def read(self, kind):
        if kind.startswith("opt "):
            return self.read(kind[4:]) if self.flag() else None
        if kind.startswith("list "):
            return [self.read(kind[5:]) for _ in range(self.number())]
        if kind in PARTS:
            fields = [(name, self.read(type_)) for name, type_ in PARTS[kind]]
            return {name: value for name, value in fields if value is not None}
        return {
            "u8": lambda: self.take(1)[0],
            "bool": self.flag,
            "u64": self.number,
            "str": lambda: self.take(self.number()).decode("utf-8"),
            "bytes": lambda: self.take(self.number()),
            "map": lambda: {self.read("str"): self.read("str") for _ in range(self.number())},
        }[kind]()

    def flag(self):
        byte = self.take(1)[0]
        if byte > 1:
            raise ValueError(f"{byte} is no flag")
        return byte == 1

    def number(self):
        first = self.take(1)[0]
        if first <= 250:
            return first
        return int.from_bytes(self.take({0xFB: 2, 0xFC: 4, 0xFD: 8}[first]), "little")


def decode(data, types):
    """A frame of bytes, as the object that its JSON form is."""
    reader = Reader(data)
    kind, fields = types[reader.take(1)[0]]
    frame = {name: reader.read(type_) for name, type_ in fields}
    if reader.at != len(data):
        raise ValueError("bytes are left over")

    if "payload" in frame:
        payload, is_json = frame.pop("payload"), frame.pop("payload_kind") == 1
        key, value = ("data", json.loads(payload)) if is_json else field_of_bytes(payload, frame["content_type"])
        frame = {name: value for name, value in frame.items() if value not in (None, {})}
        frame[key] = value
    frame = {name: value for name, value in frame.items() if value is not None or name == "data"}
    if "time_ms" in frame:
        frame["time"] = frame.pop("time_ms")
    if "expires_at_ms" in frame:
        time = datetime.datetime.fromtimestamp(frame.pop("expires_at_ms") / 1000, datetime.timezone.utc)
        frame["expires_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    if kind == "subscribe":
        frame["from"] = from_of_text(frame["from"])
    return {"type": kind, **frame}


def field_of_bytes(payload, content_type):
    """Under which name bytes stand in JSON, and how: as text if that is what they are, and if it is no longer than base64."""
    encoded = base64.b64encode(payload).decode()
    kind, *parameters = (content_type or "").lower().split(";")
    pairs = [parameter.partition("=") for parameter in parameters]
    charsets = {value.strip().strip('"') for name, _, value in pairs if name.strip() == "charset"}
    if kind.startswith("text/") and charsets <= {"utf-8", "us-ascii"}:
        try:
            text = payload.decode("utf-8")
        except UnicodeDecodeError:
            return "data_base64", encoded
        escaped = json.dumps(text, ensure_ascii=False)[1:-1].encode()
        if len(escaped) <= len(encoded):
            return "text", text
    return "data_base64", encoded


def from_of_text(text):
    if text in ("now", "earliest"):
        return text
    name, _, rest = text.partition(":")
    if name == "last":
        return {"last": int(rest)}
    return {"since": rest} if name == "since" else {"after": text}


def main():
    types = fields_of_types()
    files = sorted((HERE / "golden").glob("*.json"))
    wrong = 0
    for path in files:
        golden = json.loads(path.read_text("utf-8"))
        expected = json.loads(golden["json"])
        found = decode(bytes.fromhex(golden["bincode"]), types)
        if found != expected:
            wrong += 1
            print(f"{path.name}: bincode says {found}, JSON says {expected}", file=sys.stderr)
    print(f"{len(files) - wrong} passed, {wrong} failed")
    sys.exit(1 if wrong or not files else 0)


if __name__ == "__main__":
    main()
