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

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/kube"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/file"
)

// access is where the controller at work reads and writes.
type access struct {
	source source.Source
	writer recordWriter
	events status.Recorder
}

// noEvents is the recorder where there is nobody to show them: the log has all.
type noEvents struct{}

func (noEvents) Event(source.Object, string, string, string) {}

// elector waits until this process is the one at work, and works until ctx ends.
type elector func(ctx context.Context, work func(context.Context, access) error) error

// newElector returns the elector for the source of the configuration.
func newElector(cfg config.Config, log *slog.Logger) (elector, error) {
	if dir, ok := cfg.SourceDir(); ok {
		return folderElector(file.Options{Dir: dir, StatusDir: cfg.Paths.Status, Log: log})
	}
	return kubeElector(cfg, log)
}

// folderElector has the status folder locked while it works.
func folderElector(opts file.Options) (elector, error) {
	src, err := file.New(opts)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, work func(context.Context, access) error) error {
		unlock, err := lock(ctx, filepath.Join(opts.StatusDir, ".controller.lock"), opts.Log)
		if unlock == nil || err != nil {
			return err
		}
		defer unlock()
		writer, err := file.NewWriter(opts)
		if err != nil {
			return err
		}
		return work(ctx, access{src, locked{writer}, noEvents{}})
	}, nil
}

// locked writes to the status folder. Who stands still keeps that locked, so
// nobody else changes the records meanwhile.
type locked struct{ source.Writer }

func (w locked) PutVersion(ctx context.Context, obj source.Object) error { return w.Apply(ctx, obj) }

func (w locked) DeleteVersion(ctx context.Context, obj source.Object) error {
	kind, err := source.KindOf(obj)
	if err != nil {
		return err
	}
	return w.Delete(ctx, kind, source.KeyOf(obj))
}

// The Lease object that says who is at work.
const (
	leaseNamespace = "patchbay-system"
	leaseName      = "patchbay-controller"
)

// kubeElector holds the Lease while it works. If it loses that, it begins anew,
// knowing nothing.
func kubeElector(cfg config.Config, log *slog.Logger) (elector, error) {
	client, err := kube.New(kube.Options{
		Kubeconfig: cfg.Kubeconfig, APIServers: cfg.APIServers, StateDir: cfg.Paths.State, Component: leaseName, Log: log,
	})
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this candidate: %w", err)
	}
	election := kube.Election{
		Namespace: leaseNamespace, Name: leaseName, Identity: fmt.Sprintf("%s_%s_%d", cfg.NodeName, host, os.Getpid()),
	}
	return func(ctx context.Context, work func(context.Context, access) error) error {
		for {
			err := client.RunElected(ctx, election, func(ctx context.Context) error {
				events := client.Recorder(cfg.NodeName)
				group, ctx := errgroup.WithContext(ctx)
				group.Go(func() error { return events.Run(ctx) })
				group.Go(func() error { return work(ctx, access{client, client, events}) })
				return group.Wait()
			})
			if !errors.Is(err, kube.ErrLeadershipLost) {
				return err
			}
			log.Warn("no longer at work", "error", err)
		}
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
