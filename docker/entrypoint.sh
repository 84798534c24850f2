#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in the workspace of the image.
set -e
# shellcheck source=/dev/null
source /opt/ledpose/install/setup.bash
exec "$@"
