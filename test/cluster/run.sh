#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs pbcluster, freshly built, with the arguments given. Without any it runs
# this module's own tests, and then all that pbcluster can test.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p bin
CGO_ENABLED=0 go build -C test/cluster -o ../../bin/pbcluster ./cmd/pbcluster
[ $# -gt 0 ] || go test -C test/cluster ./cmd/... ./internal/...
exec bin/pbcluster "${@:-test}"
