// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
