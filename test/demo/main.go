// SPDX-License-Identifier: Apache-2.0

// Command demo raises a device with its two switches and two nodes on them, all
// in namespaces of this machine, runs a two-tier application on the nodes by CNI
// and a folder of Kubernetes objects, and sends requests to it from outside
// while a pod goes and another comes. It prints what it finds, checks it, and
// takes everything down.
//
// KEEP=1 keeps all up until it is interrupted. PB_BREAK=1 takes one entry out of
// a map of the datapath before the requests: then the demo must fail.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// insideEnv tells the program that it is the one inside the confinement.
const insideEnv = "PATCHBAY_DEMO_INSIDE"

func main() { os.Exit(run()) }

func run() int {
	if os.Getenv(insideEnv) != "" {
		return play()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: needs root, for namespaces")
		return 2
	}
	if _, err := netlab.Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: sweep what was left before:", err)
	}
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	os.Setenv(insideEnv, "1")
	err = netlab.Confine(ctx, exe)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted, everything is down")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo: everything is down:", err)
		return 1
	}
	return 0
}
