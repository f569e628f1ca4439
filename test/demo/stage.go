// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// root holds the demo's files; it is on a file system of the confinement's own.
const root = "/var/tmp/demo"

// logTail is how much of each log a failure shows.
const logTail = 3000

// stage is the netlab.TB of the demo. There is nothing to clean up: all ends
// with the first process of the confinement, which this is.
type stage struct {
	start time.Time
}

// Helper, Name, Cleanup and Logf complete netlab.TB.
func (s *stage) Helper()        {}
func (s *stage) Name() string   { return "demo" }
func (s *stage) Cleanup(func()) {}
func (s *stage) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// Fatalf says what went wrong, shows the ends of the logs, and ends everything.
func (s *stage) Fatalf(format string, args ...any) {
	logs, _ := filepath.Glob(filepath.Join(root, "log", "*"))
	for _, path := range logs {
		if text, _ := os.ReadFile(path); len(text) > 0 {
			fmt.Printf("--- end of %s\n%s\n", filepath.Base(path), text[max(0, len(text)-logTail):])
		}
	}
	fmt.Printf("FAIL "+format+"\n", args...)
	os.Exit(1)
}

// check prints a claim that holds; one that doesn't fails the demo, with what was found instead.
func (s *stage) check(holds bool, found any, claim string, args ...any) {
	if !holds {
		s.Fatalf("not so: %s; found: %v", fmt.Sprintf(claim, args...), found)
	}
	fmt.Printf("  ok   "+claim+"\n", args...)
}

// step announces what comes next.
func (s *stage) step(format string, args ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}
