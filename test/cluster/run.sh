#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs pbcluster, freshly built, with the arguments given; "test" by default.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p bin
CGO_ENABLED=0 go build -C test/cluster -o ../../bin/pbcluster ./cmd/pbcluster
exec bin/pbcluster "${@:-test}"
