#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes sure that MuJoCo can render without a screen: rendering_libraries.sh PYTHON
#
# Tries it first, since a machine with a GPU driver may need nothing. Where that fails, the missing packages of Debian
# and Ubuntu are installed (as root) or named.
set -u

python=$1
packages="libegl1 libgl1-mesa-dri libopengl0"

renders() {
    MUJOCO_GL=egl "$python" -c 'import mujoco; mujoco.GLContext(64, 64).make_current()' >/dev/null 2>&1
}

renders && exit 0

missing=
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done

if [ -z "$missing" ]; then
    echo "Rendering without a screen (EGL) fails although $packages are installed; this is what it says:" >&2
    MUJOCO_GL=egl "$python" -c 'import mujoco; mujoco.GLContext(64, 64).make_current()'
    exit 1
fi

install="apt-get update && apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The simulator cannot render without these system libraries:$missing" >&2
    echo "Install them and run make again, on Debian and Ubuntu: sudo sh -c '$install'" >&2
    exit 1
fi

echo "Installing the system libraries that rendering needs:$missing"
DEBIAN_FRONTEND=noninteractive sh -c "$install" >/dev/null || exit 1
renders || { echo "Rendering without a screen (EGL) still fails after installing$missing." >&2; exit 1; }
