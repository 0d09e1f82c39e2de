#!/bin/sh
# `make test-browser`: pages in Debian's Chromium, before real processes. Installs the browser where it is not there.
set -eu
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    echo "Installing Chromium and a Chinese font (once) …"
    root=""
    [ "$(id -u)" = 0 ] || root=sudo
    $root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-noto-cjk
fi
"$BIN/pytest" -q tests/browser
