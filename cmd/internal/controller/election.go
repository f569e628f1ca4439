// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/file"
)

// work is what the elected controller does with its source until ctx ends.
type work func(ctx context.Context, src source.Source, writer source.Writer) error

// opener returns what waits until this process is the one at work, and works
// until ctx ends or it is that no longer.
func opener(cfg config.Config, log *slog.Logger) (func(context.Context, work) error, error) {
	dir, ok := cfg.SourceDir()
	if !ok {
		return nil, fmt.Errorf("source %q is not supported", cfg.Source)
	}
	opts := file.Options{Dir: dir, StatusDir: cfg.Paths.Status, Log: log}
	src, err := file.New(opts)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, do work) error {
		unlock, err := lock(ctx, filepath.Join(opts.StatusDir, ".controller.lock"), log)
		if unlock == nil || err != nil {
			return err
		}
		defer unlock()
		writer, err := file.NewWriter(opts)
		if err != nil {
			return err
		}
		return do(ctx, src, writer)
	}, nil
}

// lockRetry is how often a lock that another holds is tried.
const lockRetry = 200 * time.Millisecond

// lock waits until this process alone has the file locked. The kernel gives the
// lock back however the process ends. Returns nil if ctx ended before.
func lock(ctx context.Context, path string, log *slog.Logger) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock status folder: %w", err)
	}
	unlock = func() { f.Close() } // which unlocks
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !said {
			log.Info("another controller is at work; waiting", "lock", path)
		}
		select {
		case <-time.After(lockRetry):
		case <-ctx.Done():
			return nil, f.Close()
		}
	}
}
