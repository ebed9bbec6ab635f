#!/bin/sh
# What `make badline` needs beside Rust, and the machine may not have: a C compiler for the line, and iproute2's `ss` to ask the kernel what it
# holds. Does nothing, and asks nobody, when both are there.
set -eu

fail() {
    echo "tests/badline/setup.sh: $*" >&2
    exit 1
}

PATH=$PATH:/usr/sbin:/sbin
missing=
command -v ss > /dev/null || missing=iproute2
command -v cc > /dev/null || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || fail "missing: run \`apt-get install --no-install-recommends $missing\` as root (and the whole of it wants root)"
    command -v apt-get > /dev/null || fail "install $missing, or what your system calls them; there is no apt-get to do it with"
    apt-get -qq update || fail "apt-get update failed"
    # shellcheck disable=SC2086 # several packages
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $missing > /dev/null || fail "apt-get install $missing failed"
fi

[ -c /dev/net/tun ] || fail "there is no /dev/net/tun: load the kernel's module tun (\`modprobe tun\`), or give it to the container"
