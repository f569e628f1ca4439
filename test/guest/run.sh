#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The datapath's tests on the kernels of Debian 12 and 13; on the latter the wall
# clock jumps under a cluster, which it can do nowhere else.
set -eu
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0
dir=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null; wait; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

go build -o "$dir/guest" ./test/guest
for package in pkg/datapath pkg/datapath/progtest pkg/datapath/load pkg/datapath/maps pkg/datapath/attach pkg/datapath/sockets \
	pkg/netdev/switches pkg/netdev/nic; do
	go test -c -o "$dir/${package//\//-}.test" ./$package
done
# All at once: the tests of one keep one processor busy.
failed=0
guests=()
for series in ${KERNELS:-6.1 6.12}; do
	"$dir/guest" -timeout 1500s "$series" test/guest/tests.sh "$dir" >"$dir/said-$series" 2>&1 &
	guests+=("$series $!")
done
mkdir "$dir/bin"
go build -o "$dir/bin/" ./cmd/patchbay ./cmd/patchbayd ./test/site/runtime
go test -c -o "$dir/failover.test" ./test/failover
for guest in "${guests[@]}"; do
	wait "${guest#* }" || failed=1
	cat "$dir/said-${guest% *}"
done
for name in patchbay-vswitch patchbay-ipam; do ln -s patchbay "$dir/bin/$name"; done
for name in patchbay-controller patchbayctl; do ln -s patchbayd "$dir/bin/$name"; done
PATCHBAY_GUEST=1 PATCHBAY_BIN="$dir/bin" "$dir/guest" -timeout 900s -memory 4096 6.12 \
	"$dir/failover.test" -test.v -test.run TestWallClock || failed=1
exit $failed
