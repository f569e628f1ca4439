// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/failover"
)

func TestFigure(t *testing.T) {
	line := figure{"cni-add-p50", 4.5, "ms", "ptp+host-local", 10}.String()
	if got, want := strings.Fields(line), "cni-add-p50 4.50 ms ptp+host-local 10.0 0.45"; strings.Join(got, " ") != want {
		t.Errorf("line: got %q, want %q", got, want)
	}
}

func TestPercentile(t *testing.T) {
	samples := []time.Duration{4, 1, 3, 2}
	for percent, want := range map[int]time.Duration{0: 1, 50: 3, 99: 4, 100: 4} {
		if got := percentile(samples, percent); got != want {
			t.Errorf("percentile %d: got %d, want %d", percent, got, want)
		}
	}
	if got := percentile(nil, 50); got != 0 {
		t.Errorf("percentile of nothing: got %d", got)
	}
}

func TestInParallelCallsEachOnce(t *testing.T) {
	var calls [100]atomic.Int32
	inParallel(8, len(calls), func(i int) { calls[i].Add(1) })
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("%d was called %d times", i, n)
		}
	}
}

func TestFailoverVerdict(t *testing.T) {
	lossless, measured := failover.Fault{Lossless: true}, failover.Fault{Within: 300 * time.Millisecond}
	outage := func(d time.Duration) []time.Duration { return []time.Duration{0, d} }
	for _, tt := range []struct {
		name string
		row  row
		want string
	}{
		{"none lost", row{fault: lossless, spans: outage(0)}, "ok"},
		{"one lost", row{fault: lossless, spans: outage(10 * time.Millisecond), lost: 1}, "MISSED"},
		{"in time", row{fault: measured, spans: outage(300 * time.Millisecond), lost: 30}, "ok"},
		{"too late", row{fault: measured, spans: outage(310 * time.Millisecond), lost: 31}, "MISSED"},
		{"lost when it was over", row{fault: measured, spans: outage(0), back: 1}, "MISSED"},
		{"two answered", row{fault: measured, spans: outage(0), faults: []string{"two"}}, "MISSED"},
	} {
		if got := tt.row.verdict(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
