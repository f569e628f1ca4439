// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/failover"
)

// defaultRuns is how often each fault is tried unless $RUNS says otherwise.
const defaultRuns = 3

// metalLB is what MetalLB 0.16.2 (layer 2, two speakers) was measured at on a
// machine of this kind with the same client; not all of its modules can be had here.
func metalLB(fault string) string {
	switch fault {
	case "agent gone for good":
		return "5500–6900 ms"
	case "carrier lost", "cut off on all NICs":
		return "5400–6900 ms"
	case "SIGTERM":
		return "0 lost, two answer for 400–600 ms"
	}
	return "-"
}

// row is what a number of trials of one fault came to.
type row struct {
	nodes  int
	fault  failover.Fault
	name   string
	spans  []time.Duration // of each stream in each run
	lost   int             // requests
	back   int             // requests lost when it was over
	faults []string        // beside the target
}

const failoverColumns = "  %-48s %5s %9s %9s %6s %6s   %-10s %-8s %s\n"

// measureFailover measures for how long requests are lost, by fault: with three
// nodes, in an outage of the source of objects, with two nodes, with one, or only
// what $NODES names of that (3,api,2,1) and $FAULTS of the faults. It prints a row for each and returns no
// figures: the peer was measured elsewhere.
func measureFailover(l *lab) []figure {
	runs := defaultRuns
	if text := os.Getenv("RUNS"); text != "" {
		var err error
		if runs, err = strconv.Atoi(text); err != nil || runs < 1 {
			l.Fatalf("RUNS=%s is no number of runs", text)
		}
	}
	fmt.Printf("# failover, ms without an answer, a request every 10 ms on each of 4 streams, %d runs\n", runs)
	fmt.Printf("#"+failoverColumns[1:], "fault", "runs", "p50", "p99", "lost", "after", "target", "verdict", "MetalLB 0.16.2")
	for group := range strings.SplitSeq(cmp.Or(os.Getenv("NODES"), "3,api,2,1"), ",") {
		nodes, err := strconv.Atoi(group)
		if group == "api" {
			nodes, err = 3, nil
		}
		if err != nil || nodes < 1 || nodes > 3 {
			l.Fatalf("NODES=%s is none of 3, 2, 1, api", group)
		}
		cluster := failover.New(l, l.bin, filepath.Join(root, group), nodes)
		if group == "api" {
			withoutSource(cluster, runs)
		} else {
			tryFaults(cluster, nodes, runs)
		}
		cluster.End()
	}
	return nil
}

// tryFaults tries all faults that so many nodes can have.
func tryFaults(cluster *failover.Lab, nodes, runs int) {
	for _, f := range failover.Faults() {
		if some := os.Getenv("FAULTS"); some != "" && !slices.Contains(strings.Split(some, ","), f.Name) {
			continue
		}
		if nodes == 1 && (f.Peers || f.Name == "drained" || f.Name == "SIGTERM") || nodes == 2 && f.Stays {
			continue
		}
		r := row{nodes: nodes, fault: f, name: fmt.Sprintf("%s, %d nodes", f.Name, nodes)}
		for run := range runs {
			r.add(cluster.Try(f, run%nodes, run == runs-1))
		}
		r.print(runs)
	}
}

// outagePace is the time between two failures while the source is away: thirty
// of them take ten minutes.
const outagePace = 20 * time.Second

// withoutSource fails nodes in one outage of the source: cut off and stopped, in turn.
func withoutSource(cluster *failover.Lab, runs int) {
	var faults []failover.Fault
	for _, f := range failover.Faults() {
		if f.Name == "cut off on all NICs" || f.Name == "stopped" {
			faults = append(faults, f)
		}
	}
	r := row{nodes: 3, fault: faults[0], name: "cut off or stopped, without the API"}
	restore := cluster.LoseSource()
	defer restore()
	began := time.Now()
	for run := range runs {
		r.add(cluster.Try(faults[run%len(faults)], run%r.nodes, run == runs-1))
		time.Sleep(time.Until(began.Add(time.Duration(run+1) * outagePace)))
	}
	r.name += fmt.Sprintf(" for %v", time.Since(began).Round(time.Second))
	r.print(runs)
}

func (r *row) add(t failover.Trial) {
	for _, o := range t.Away {
		r.spans = append(r.spans, o.Span)
		r.lost += o.Lost
	}
	_, back := failover.Longest(t.Back)
	r.back += back
	r.faults = append(r.faults, t.Wrong...)
	for _, d := range t.Doubles[:min(1, len(t.Doubles))] {
		r.faults = append(r.faults, d.String())
	}
	if os.Getenv("VERBOSE") != "" {
		fmt.Fprintln(os.Stderr, t, strings.Join(t.Complaints(0), "; "))
	}
}

// verdict tells whether the target was met, and nothing else was wrong.
func (r *row) verdict() string {
	late := !r.fault.Lossless && percentile(r.spans, 99) > r.fault.Within
	if late || r.fault.Lossless && r.lost > 0 || r.back > 0 || len(r.faults) > 0 {
		return "MISSED"
	}
	return "ok"
}

func (r *row) print(runs int) {
	target := "0 lost"
	if !r.fault.Lossless {
		target = fmt.Sprintf("p99 ≤ %d", r.fault.Within.Milliseconds())
	}
	fmt.Printf(failoverColumns, r.name, strconv.Itoa(runs), number(milliseconds(percentile(r.spans, 50))), number(milliseconds(percentile(r.spans, 99))),
		strconv.Itoa(r.lost), strconv.Itoa(r.back), target, r.verdict(), metalLB(r.fault.Name))
	slices.Sort(r.faults)
	for _, f := range slices.Compact(r.faults) {
		fmt.Printf("  %-48s %s\n", "", f)
	}
}
