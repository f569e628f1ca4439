// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"
)

// figure is a measured value and the peer's, measured in the same run.
type figure struct {
	name  string
	value float64
	unit  string
	peer  string
	other float64
}

const columns = "%-22s %12s %-8s %-22s %12s %8s"

func header() string {
	return fmt.Sprintf("# "+columns, "name", "value", "unit", "peer", "value", "ratio")
}

// String is the figure's line.
func (f figure) String() string {
	return fmt.Sprintf("  "+columns, f.name, number(f.value), f.unit, f.peer, number(f.other), number(f.value/f.other))
}

// number writes a value with three digits that count.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// percentile returns the value below which so many per cent of the samples lie.
func percentile(samples []time.Duration, percent int) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// milliseconds is a duration as a figure's value.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
