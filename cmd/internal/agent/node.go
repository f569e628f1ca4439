// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/cmd/internal/agent/device"
	"github.com/patchbay-net/patchbay/cmd/internal/nodepools"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/search"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/metrics"
	"github.com/patchbay-net/patchbay/pkg/monitor"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
	"github.com/patchbay-net/patchbay/pkg/reconcile"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// runNode is the agent of a node. All that it has put in force stays when it
// returns: traffic goes on without it.
func runNode(ctx context.Context, cfg config.Config, log *slog.Logger) (err error) {
	if err := makeDirs(cfg); err != nil {
		return err
	}
	dp, err := openDatapath(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	src, writer, err := openSource(cfg, log)
	if err != nil {
		return err
	}
	addrs, err := newAnnouncer(cfg, dp, log)
	if err != nil {
		return err
	}
	network := newNetwork(cfg, writer, log)
	leases := store.New(cfg.Paths.Leases(), store.Options{InUse: podlink.Addrs, Damaged: func(err error) { log.Warn("leases", "err", err) }})
	pods := podLeasing(cfg, leases, log)
	searches := search.New(search.Options{Held: addrs.Held, Alive: addrs.alive, Log: log})
	ranges := poolsOf(cfg, writer)
	owners := newOwners(cfg, writer)
	r := reconcile.New(reconcile.Options{
		Config: cfg, Datapath: dp, Writer: writer, Version: version(), Log: log,
		Leases: leases, Addresses: addrs.List,
		Parts: append(network.Parts(), addrs.Part(), addrs.verifier.Part(), pods.Part(), searches.Part(), ranges.Part(), owners.Part()),
	})
	dp.SetNamespaces(podNamespaces(r))
	pods.Wake = func() { r.Wake(leasing.PartName) }
	owners.attach(r)
	counters := newCounters(r, pods, dp)
	addrs.attach(r, counters)
	searches.Wake, searches.Conflict = func() { r.Wake(search.PartName) }, counters.Conflict
	health := func() monitor.Health { return healthOf(r, counters) }
	checks := monitor.NewChecks(func() bool { return health().Healthy() }, log)
	r.OnServices, r.Meter = afterFirst(checks.Set), counters
	listener, err := agentapi.Listen(cfg.Paths.AgentSocket())
	if err != nil {
		return err
	}
	handler := r.Handler()
	ranges.Serve(handler)
	network.serve(handler, r, dp)
	servePackets(handler, r, addrs.Heartbeat, dp, cfg, log)
	pods.Handle(handler)
	if err := addrs.open(handler); err != nil {
		return errors.Join(err, listener.Close())
	}
	group, ctx := errgroup.WithContext(addrs.leaving(ctx))
	group.Go(func() error { return agentapi.Serve(ctx, listener, handler, log) })
	group.Go(func() error { return r.Run(ctx) })
	group.Go(func() error { return checks.Run(ctx) })
	group.Go(func() error { return addrs.run(ctx) })
	group.Go(func() error { return ignoreCanceled(dp.Run(ctx)) })
	for name, f := range map[string]func() error{
		"health": func() error {
			return monitor.Server(ctx, monitor.HealthAddress, monitor.Handler(health, counters.Probed))
		},
		"metrics": func() error { return monitor.Server(ctx, metrics.Address, counters.Handler()) },
		"watch": func() error {
			addrs.changed(watch.Event{Topic: watch.Lost}) // what happened before
			return watch.Run(ctx, addrs.changed)
		},
		"routes":   func() error { return network.routes.Run(ctx) },
		"selftest": func() error { return network.tests.Run(ctx) },
		"searches": func() error { return searches.Run(ctx) },
		"leases":   func() error { return pods.Run(ctx) },
		"events":   func() error { return owners.run(ctx) },
		"pods":     func() error { return src.Run(ctx, leasing.Kinds(), pods.Apply) },
		"source":   func() error { return src.Run(ctx, r.Kinds(), r.Apply) },
	} {
		group.Go(func() error { return keep(ctx, f, func(err error) { r.Problem("agent/"+name, err) }) })
	}
	log.Info("started", "version", version(), "node", cfg.NodeName, "source", cfg.Source)
	err = group.Wait()
	log.Info("stopped; what is in force stays in force")
	return err
}

// newCounters are the node's metrics.
func newCounters(r *reconcile.Reconciler, pods *leasing.Table, dp *datapath.Datapath) *metrics.Agent {
	counters := metrics.New(r)
	counters.Watch(pods.Blocks)
	counters.WatchFlows(dp.Flows, dp.FlowsWithoutRoom)
	return counters
}

// readFor is how long after the Services were first computed what the start took
// is of no more use.
const readFor = 3 * time.Second

// afterFirst gives the system back what reading all objects took, once, which is
// as much again as the objects take.
func afterFirst(set func([]service.HealthCheck)) func([]service.HealthCheck) {
	var first sync.Once
	return func(checks []service.HealthCheck) {
		first.Do(func() { time.AfterFunc(readFor, debug.FreeOSMemory) })
		set(checks)
	}
}

// healthOf is what the node's health checks say.
func healthOf(r *reconcile.Reconciler, counters *metrics.Agent) monitor.Health {
	h := r.Health()
	if h.Synced {
		h.Pending = counters.Pending()
	}
	return h
}

// keepEvery is how long keep waits before it tries again, and how long f must
// last to be well.
const keepEvery = 5 * time.Second

// keep runs f again after it fails, until ctx ends: pods and traffic don't
// depend on it. What is wrong is told, and nil once f lasts.
func keep(ctx context.Context, f func() error, tell func(error)) error {
	for {
		well := time.AfterFunc(keepEvery, func() { tell(nil) })
		err := f()
		well.Stop()
		if ctx.Err() != nil {
			return nil
		}
		tell(cmp.Or(err, errEnded))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(keepEvery):
		}
	}
}

var errEnded = errors.New("ended without a reason")

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func makeDirs(cfg config.Config) error {
	for _, dir := range []string{cfg.Paths.State, cfg.Paths.Run, cfg.Paths.CNIConf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// openDatapath loads the programs, or takes over those of an earlier agent, and
// attaches the socket hooks.
func openDatapath(cfg config.Config, log *slog.Logger) (*datapath.Datapath, error) {
	cgroup, err := cgroupPath(cfg)
	if err != nil {
		return nil, err
	}
	dp, err := datapath.Open(datapath.Options{PinDir: cfg.Paths.BPF, Log: log})
	if errors.Is(err, datapath.ErrInUse) {
		return nil, fmt.Errorf("another agent runs on this node; stop it first: %w", err)
	}
	if errors.Is(err, datapath.ErrSchema) {
		return nil, fmt.Errorf("another version of Patchbay left them; traffic goes on as it is; drain the node, run patchbayd cleanup, start again: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err := dp.AttachSockets(cgroup); err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	return dp, nil
}

// runDevice keeps the device's switches.
func runDevice(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	src, writer, err := openSource(cfg, log)
	if err != nil {
		return err
	}
	keeper := switches.Keeper{Sysctls: netdev.Sysctls(cfg.Paths.Sysctl), Seed: cfg.NodeName}
	pools := &nodepools.Writer{Source: src, Path: filepath.Join(cfg.Paths.Run, "pools.json"), Log: log}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return pools.Run(ctx) })
	group.Go(func() error { return device.New(keeper, src, writer, log).Serve(ctx, cfg.Paths.AgentSocket()) })
	return group.Wait()
}

// cgroupPath is where the socket hooks go: as configured, else where cgroup2 is mounted.
func cgroupPath(cfg config.Config) (string, error) {
	if cfg.CgroupPath != "" {
		return cfg.CgroupPath, nil
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	if path := cgroupMount(string(raw)); path != "" {
		return filepath.Clean(path), nil
	}
	return "", errors.New("find cgroup2: it isn't mounted; mount it or set cgroupPath")
}
