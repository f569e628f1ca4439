// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The demo's files are on a file system of the confinement's own.
const (
	root       = "/var/tmp/demo"
	objectsDir = root + "/objects"
	statusDir  = root + "/status"
	logDir     = root + "/log"
)

// logTail is how much of each log a failure shows.
const logTail = 3000

// stage is the netlab.TB of the demo. There is nothing to clean up: all ends
// with the first process of the confinement, which this is.
type stage struct {
	start time.Time
	bin   string
}

func newStage() (*stage, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{objectsDir, statusDir, logDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return &stage{start: time.Now(), bin: filepath.Dir(exe)}, nil
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
	logs, _ := filepath.Glob(filepath.Join(logDir, "*"))
	for _, path := range logs {
		if text, _ := os.ReadFile(path); len(text) > 0 {
			fmt.Printf("--- end of %s\n%s\n", filepath.Base(path), text[max(0, len(text)-logTail):])
		}
	}
	fmt.Printf("FAIL "+format+"\n", args...)
	os.Exit(1)
}

// check fails the demo unless ok; what holds is printed.
func (s *stage) check(ok bool, format string, args ...any) {
	if !ok {
		s.Fatalf(format, args...)
	}
	fmt.Printf("  ok   "+format+"\n", args...)
}

// must fails the demo on an error.
func (s *stage) must(err error, what string) {
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// step announces what comes next.
func (s *stage) step(format string, args ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// program returns the path of a program built with the demo.
func (s *stage) program(name string) string { return filepath.Join(s.bin, name) }

// log opens the log of a program.
func (s *stage) log(name string) io.Writer {
	f, err := os.Create(filepath.Join(logDir, name))
	s.must(err, "open log")
	return f
}

// write writes a file at once, so that who watches the folder never sees half of it.
func (s *stage) write(path, text string) {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	s.must(os.MkdirAll(filepath.Dir(path), 0o755), "make directory")
	s.must(os.WriteFile(temp, []byte(strings.TrimLeft(text, "\n")), 0o644), "write "+path)
	s.must(os.Rename(temp, path), "write "+path)
}
