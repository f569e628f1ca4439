#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs every stage of the tests, whatever the ones before it said, and counts.
# STAGES="unit demo" runs only those. A signal ends the running stage and its
# processes; what they left is swept.
set -um
cd "$(dirname "$0")/.."
export PATCHBAY_PRIVILEGED=1
TMPDIR=$(mktemp -d /tmp/patchbay-test.XXXXXX)
export TMPDIR

passed=0 failed=0 summary='' job=''

sweep() {
	GOTMPDIR=/tmp go run ./test/netlab/sweep
	rm -rf "$TMPDIR"
}

stop() {
	trap '' INT TERM
	[ -z "$job" ] || { kill -TERM -- "-$job"; wait "$job"; } 2>/dev/null
	exit 130
}
trap sweep EXIT
trap stop INT TERM

# stage NAME COMMAND...: the command has a process group of its own, so a signal reaches all of it.
stage() {
	local name=$1 start=$SECONDS result
	shift
	case " ${STAGES:-$name} " in *" $name "*) ;; *) return ;; esac
	echo "=== $name: $*"
	"$@" &
	job=$!
	if wait "$job"; then
		result=ok passed=$((passed + 1))
	else
		result=FAIL failed=$((failed + 1))
	fi
	job=
	summary+=$(printf '%-5s %-16s %4d s' "$result" "$name" $((SECONDS - start)))$'\n'
}

vet() {
	local unformatted
	unformatted=$(git ls-files '*.go' | xargs gofmt -l)
	[ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted"; return 1; }
	go vet ./...
}

# Labs of whole nodes: each wants the machine for itself.
labs="./test/site ./test/appliance ./test/clusters ./test/failover"

unit() { go list ./... | grep -v -E '/test/(site|appliance|clusters|failover)$' | xargs go test -timeout 20m; }

# The demo with one map entry taken out must notice, and say what it missed.
broken_demo() {
	local out
	out=$(PB_BREAK=1 make -s demo 2>&1) && { echo "$out"; echo "the broken demo passed"; return 1; }
	grep '^FAIL not so: none of .* requests lost' <<<"$out" || { echo "$out"; echo "the broken demo ended elsewhere"; return 1; }
}

# What needs a real API server, whose binary the cluster has built.
kube_source() {
	local kube
	kube=$(find "${PB_CACHE:-$HOME/.cache/patchbay/cluster}" -path '*/kube-*/kube' -type f | head -n 1)
	[ -n "$kube" ] || { echo "the cluster has built no kube"; return 1; }
	unshare --net sh -c "ip link set lo up && PATCHBAY_TEST_KUBE='$kube' go test -count=1 -p 1 -run Real ./pkg/kube ./pkg/reconcile/pools ./cmd/internal/controller ./cmd/internal/ctl"
}

stage deps test/deps.sh
stage vet vet
stage unit unit
# shellcheck disable=SC2086 # a list
stage labs go test -count=1 -p 1 -timeout 20m $labs
stage verify-generate make -s verify-generate
stage demo make -s demo
stage broken-demo broken_demo
stage guests test/guest/run.sh
stage cluster make -s cluster
stage kube-source kube_source

printf '\n%s' "$summary"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
