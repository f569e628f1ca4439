#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds Patchbay's image as the OCI archive $1.
set -eu
exec "$(dirname "$0")/run.sh" image "$1"
