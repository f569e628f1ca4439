#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in a guest: the tests that depend on the kernel, prebuilt in $1. A test
# may be skipped only where the kernel lacks what `lacking` says; all else that
# doesn't pass fails the run.
set -u
binaries=$1
kernel=$(uname -r)
passed=0 failed=0 skipped=0

# What a series has not: series, test.
lacking() {
	case "$kernel $1" in
	6.1.*" TestTCX") echo "tcx is of 6.6" ;;
	*) return 1 ;;
	esac
}

# run PACKAGE PATTERN [BUT]
run() {
	local start=$SECONDS out test
	out=$(cd "$1" && "$binaries/${1//\//-}.test" -test.v -test.timeout 5m -test.run "$2" -test.skip "${3:-^$}" 2>&1)
	local status=$?
	local ok
	ok=$(grep -c '^--- PASS' <<<"$out")
	passed=$((passed + ok))
	for test in $(awk '/^--- SKIP/ {print $3}' <<<"$out"); do
		if lacking "$test" >/dev/null; then
			echo "skipped $1 $test: $(lacking "$test")"
			skipped=$((skipped + 1))
		else
			echo "FAIL $1 $test: skipped"
			failed=$((failed + 1)) status=1
		fi
	done
	failed=$((failed + $(grep -c '^--- FAIL' <<<"$out")))
	if [ $status != 0 ] || [ "$ok" = 0 ]; then
		[ "$failed" != 0 ] || failed=1
		tail -c 30000 <<<"$out"
	fi
	echo "$1: $ok passed in $((SECONDS - start)) s"
}

# Floods, and sums over hundreds of lengths, show nothing of a kernel.
run pkg/datapath/progtest . '^(TestFlood|TestFloodUDP|TestFlowsFull|TestFlowRate|TestOneShots|TestSCTPChecksum|TestReasons)$'
run pkg/datapath/load .
run pkg/datapath/maps .
run pkg/datapath/attach .
run pkg/datapath/sockets .
run pkg/datapath '^(TestSocketTCP|TestSocketUDP|TestRemove|TestOutside|TestSCTP|TestSocketsEnd)$'
case "$kernel" in
6.12.*) # what a developer's kernel may lack: VLANs, bonds, teams
	run pkg/netdev/switches '^(TestVLAN|TestVLANOfTheOperator|TestBondIsRefused|TestTeamIsRefused)$'
	run pkg/netdev/nic '^TestBondAndVLAN$'
	;;
esac

echo "$kernel: $passed passed, $failed failed, $skipped skipped in $SECONDS s"
[ "$failed" = 0 ]
