// SPDX-License-Identifier: Apache-2.0

// Package controller is patchbay-controller: of all its copies one is at work.
// It gives LoadBalancer Services their addresses out of the IPPools, records
// them durably before it shows them, and counts what the pools have left.
package controller

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/monitor"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// healthAddress is where /healthz, /livez and /metrics are served, unless told
// otherwise.
const healthAddress = ":10259"

// Main runs the controller with these arguments and returns its exit status.
func Main(args []string) int {
	flags := flag.NewFlagSet("patchbay-controller", flag.ContinueOnError)
	path := flags.String("config", config.DefaultPath, "configuration `file`")
	health := flags.String("health", healthAddress, "`address` to serve /healthz and /metrics on; none if empty")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "patchbay-controller: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *path, *health); err != nil {
		fmt.Fprintf(os.Stderr, "patchbay-controller: %v\n", err)
		return 1
	}
	return 0
}

// run is the controller until ctx ends.
func run(ctx context.Context, path, health string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	elect, err := newElector(cfg, log)
	if err != nil {
		return err
	}
	var synced atomic.Bool
	meter := newMeter()
	group, ctx := errgroup.WithContext(ctx)
	if health != "" {
		group.Go(func() error {
			return monitor.Server(ctx, health, meter.handler(monitor.Handler(func() monitor.Health { return monitor.Health{Synced: synced.Load()} })))
		})
	}
	class := convert.Class{Name: cfg.LoadBalancer.Class, Default: *cfg.LoadBalancer.Default}
	group.Go(func() error {
		return elect(ctx, func(ctx context.Context, to access) error {
			l := newLoop(to, class, time.Now, log)
			l.synced, l.addresses.meter = func() { synced.Store(true) }, meter
			return l.Run(ctx)
		})
	})
	log.Info("started", "source", cfg.Source, "class", class.Name)
	return group.Wait()
}
