// SPDX-License-Identifier: Apache-2.0

// Command bench measures Patchbay beside its peers, both in one run, and prints
// a line for each figure: name value unit peer value ratio.
//
//	bench [cni] [cni-start] [connect] [packet] [footprint] [services] [failover]
//
// Each bench runs in a confinement of its own. Trust the ratios, not the values:
// they are of one machine at one time.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// insideEnv names the bench that the program is confined for.
const insideEnv = "PATCHBAY_BENCH_INSIDE"

// bench is one group of figures.
type bench struct {
	name string
	run  func(l *lab) []figure
}

func benches() []bench {
	return []bench{
		{"cni", measureCNI},
		{"cni-start", measureStart},
		{"connect", measureConnect},
		{"packet", measurePacket},
		{"footprint", measureFootprint},
		{"services", measureServices},
		{"failover", measureFailover},
	}
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) > 0 && args[0] == "worker" {
		return work(args[1:])
	}
	all := benches()
	if name := os.Getenv(insideEnv); name != "" {
		return confined(all[slices.IndexFunc(all, func(b bench) bool { return b.name == name })])
	}
	for _, name := range args {
		if !slices.ContainsFunc(all, func(b bench) bool { return b.name == name }) {
			fmt.Fprintf(os.Stderr, "bench: there is no bench %q\n", name)
			return 2
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	code := 0
	fmt.Println(header())
	for _, b := range all {
		if len(args) > 0 && !slices.Contains(args, b.name) {
			continue
		}
		os.Setenv(insideEnv, b.name)
		if err := netlab.Confine(ctx, exe); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", b.name, err)
			code = 1
		}
		if ctx.Err() != nil {
			return 130
		}
	}
	return code
}

// confined runs one bench inside its confinement.
func confined(b bench) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	for _, f := range b.run(newLab(filepath.Dir(exe))) {
		fmt.Println(f)
	}
	return 0
}
