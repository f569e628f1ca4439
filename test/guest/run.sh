#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The datapath's tests on the kernels of Debian 12 and 13.
set -eu
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

go build -o "$dir/guest" ./test/guest
for package in pkg/datapath pkg/datapath/progtest pkg/datapath/load pkg/datapath/maps pkg/datapath/attach pkg/datapath/sockets; do
	go test -c -o "$dir/${package//\//-}.test" ./$package
done
failed=0
for series in ${KERNELS:-6.1 6.12}; do
	"$dir/guest" -timeout 240s "$series" test/guest/tests.sh "$dir" || failed=1
done
exit $failed
