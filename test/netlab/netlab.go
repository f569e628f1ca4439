// SPDX-License-Identifier: Apache-2.0

// Package netlab builds small networks out of namespaces for tests and for the
// demo: namespaces, wires, switches, nodes with a file system of their own, and
// captures. Everything hangs on file descriptors and child processes of the
// caller, so that it is gone when the caller is, however that came; only the
// cgroups of nodes stay after SIGKILL, and Sweep removes them.
//
//	a, b := netlab.New(t), netlab.New(t)
//	netlab.Wire(t, a, "eth0", b, "eth0")
//	a.Addr(t, "eth0", "10.0.0.1/24")
//	b.Addr(t, "eth0", "10.0.0.2/24")
//	a.Run(t, func() { conn, err = net.Dial("tcp", "10.0.0.2:80") })
package netlab

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TB is what netlab needs of testing.TB; a program that isn't a test brings its own.
// Fatalf doesn't return. Cleanups run last in, first out.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
}

// Require skips the test unless it runs with the privileges that namespaces
// need. With PATCHBAY_PRIVILEGED=1, as in CI, it fails instead.
func Require(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PATCHBAY_PRIVILEGED") == "1" {
		tb.Fatal("needs root")
	}
	tb.Skip("needs root")
}

// pollInterval is how often WaitFor looks.
const pollInterval = 5 * time.Millisecond

// WaitFor polls condition until it returns nil, and fails the test with its
// last error and what was waited for when the time is over.
func WaitFor(tb TB, timeout time.Duration, what string, condition func() error) {
	tb.Helper()
	if err := Poll(timeout, condition); err != nil {
		tb.Fatalf("%s: not within %v: %v", what, timeout, err)
	}
}

// Poll calls condition until it returns nil or the time is over, and returns its last error.
func Poll(timeout time.Duration, condition func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollInterval)
	}
}

// must fails the test when err isn't nil.
func must(tb TB, err error, format string, args ...any) {
	if err != nil {
		tb.Helper()
		tb.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}
