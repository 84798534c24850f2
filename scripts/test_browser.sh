#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Gets the tests of the web page a browser where that is possible: test_browser.sh
#
# Debian has one that needs no screen, and it is installed where we are root. Elsewhere the missing browser is named and
# those tests are skipped: nothing else needs it.
set -u

for browser in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$browser" >/dev/null && exit 0
done

skipped="the tests of the page of 'ledpose view' are skipped"
if ! command -v apt-get >/dev/null; then
    echo "Without Chromium or Chrome $skipped." >&2
    exit 0
fi
# Ubuntu has no such package, only a snap.
install="apt-get update && apt-get install -y --no-install-recommends chromium"
if [ "$(id -u)" -ne 0 ]; then
    echo "Without Chromium or Chrome $skipped. On Debian: sudo sh -c '$install'" >&2
    exit 0
fi

echo "Installing Chromium for the tests of the web page"
DEBIAN_FRONTEND=noninteractive sh -c "$install" >/dev/null 2>&1 || echo "Chromium cannot be installed: $skipped." >&2
exit 0
