#!/bin/sh
# `make faults`: the fault suite. Installs Debian's libfaketime where it may; without it clocks are not skewed, and the result says so.
set -eu
if [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ] && [ ! -d "/usr/lib/$(uname -m)-linux-gnu/faketime" ]; then
    echo "Installing libfaketime (once) …" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libfaketime; } >&2 ||
        echo "libfaketime cannot be installed: clocks stay as they are." >&2
fi
exec "$BIN/python" -m tests.faults
