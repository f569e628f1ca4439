// SPDX-License-Identifier: Apache-2.0

// Command guest runs a command on another kernel: one of Debian's stock cloud
// kernels, in an emulated machine without network.
//
//	guest [-timeout 2m] [-memory 2048] [-disk IMAGE:LOG] 6.12 COMMAND [ARG...]
//
// The guest's root is the caller's, shared read-only, with what the guest writes
// kept in its memory. The command runs as root in the caller's directory, with
// the caller's PATH, HOME, TMPDIR and PATCHBAY_ variables; its output is the
// tool's, and so is its exit status. Modules load on demand. Nothing is left
// when the tool ends, however that comes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// statusError is the exit status that the guest is not the cause of.
const statusError = 125

func main() { os.Exit(run()) }

func run() int {
	timeout := flag.Duration("timeout", 2*time.Minute, "end the guest after this time")
	memory := flag.Int("memory", 2048, "the guest's memory in MiB")
	disk := flag.String("disk", "", "`IMAGE:LOG` of a disk for the guest, and of what it writes to it")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: guest [-timeout 2m] [-memory 2048] SERIES COMMAND [ARG...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		return statusError
	}
	runtime.LockOSThread() // the emulator's life hangs on this thread
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := &machine{memory: *memory}
	m.disk, m.log, _ = strings.Cut(*disk, ":")
	status, err := boot(ctx, flag.Arg(0), *timeout, m, flag.Args()[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest %s: %v\n", flag.Arg(0), err)
	}
	return status
}

// boot gets the kernel, starts a machine with it and runs the command there.
func boot(ctx context.Context, series string, timeout time.Duration, m *machine, args []string) (status int, err error) {
	if runtime.GOARCH != "amd64" {
		return statusError, errors.New("guests are amd64's")
	}
	cache := os.Getenv("PB_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return statusError, err
		}
		cache = filepath.Join(home, ".cache", "patchbay")
	}
	k, err := findKernel(ctx, filepath.Join(cache, "guest"), series)
	if err != nil {
		return statusError, err
	}
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return statusError, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m.dir, m.kernel = dir, k
	if err := m.writeInitrd(args); err != nil {
		return statusError, fmt.Errorf("make initrd: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %v", timeout))
	defer cancel()
	return m.run(ctx)
}
