// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/announce/search"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/metrics"
	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
	"github.com/patchbay-net/patchbay/pkg/reconcile"
	"github.com/patchbay-net/patchbay/pkg/reconcile/addresses"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// announcer is the agent's part in LoadBalancer addresses: it answers for those
// that are its node's, and looks at and explains all.
type announcer struct {
	*addresses.Addresses
	verifier *verify.Verifier
	cfg      config.Config
	dp       addresses.Datapath
	r        *reconcile.Reconciler // set before anything runs
	wake     func(part string)     // and so is this
}

func newAnnouncer(cfg config.Config, dp addresses.Datapath, log *slog.Logger) (*announcer, error) {
	key, err := readKey(cfg.Gossip.KeyFile)
	if err != nil {
		return nil, err
	}
	a := &announcer{cfg: cfg, dp: dp}
	a.Addresses, err = addresses.New(addresses.Options{
		Node: cfg.NodeName, Port: cfg.Gossip.Port, Key: key, Expiry: time.Duration(cfg.LoadBalancer.AnnouncementExpiry), Datapath: dp, Log: log,
		Note:    func(object string, err error) { a.r.Problem(object, err) },
		Suspect: func(nodes map[string]bool) { a.r.SetSuspect(nodes) },
		NICs:    func(told map[string][]plan.RemoteNIC) { a.r.SetRemoteNICs(told) },
		Moved:   func(holder.Address) { a.wake(search.PartName) }, // it watches over what is held
		Proxied: probe.Proxied,
	})
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	a.verifier = verify.New(verify.Options{
		Node: cfg.NodeName, Addresses: a.Keeper.Addresses, Standings: a.Keeper.Standings, View: a.Heartbeat.View,
		Changed: func() { a.wake(verify.Name) }, Log: log,
	})
	return a, nil
}

// attach joins it to the reconciler and the metrics, before anything runs.
func (a *announcer) attach(r *reconcile.Reconciler, counters *metrics.Agent) {
	a.r, a.wake = r, r.Wake
	counters.WatchAddresses(a.count)
}

// count is for the metrics.
func (a *announcer) count() metrics.Announced {
	out := metrics.Announced{Held: len(a.Held())}
	out.Taken, out.Given = a.Keeper.Moves()
	for _, p := range a.Heartbeat.View().Peers {
		switch {
		case p.Agent:
			out.Heard++
		case p.Node == heartbeat.Dead:
			out.Dead++
		default:
			out.Silent++
		}
	}
	return out
}

// alive tells whether another node's agent is heard.
func (a *announcer) alive(node string) bool { return a.Heartbeat.View().Peers[node].Agent }

// readKey returns the cluster's key; none is configured where nodes trust their
// networks.
func readKey(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	if raw = bytes.TrimSpace(raw); len(raw) < 16 {
		return nil, fmt.Errorf("gossip key: %s has %d bytes, at least 16 are needed", path, len(raw))
	}
	return raw, nil
}

// open serves the agent's API, and other nodes' questions.
func (a *announcer) open(h agentapi.Handler) error {
	return (&addressDesk{cfg: a.cfg, keeper: a.Keeper, beats: a.Heartbeat, verifier: a.verifier, announced: a.dp.Announcements}).open(h)
}

// run keeps the addresses until ctx ends.
func (a *announcer) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return a.verifier.Run(ctx) })
	return group.Wait()
}

// changed takes a change of the node's network in: carriers matter at once.
func (a *announcer) changed(ev watch.Event) {
	if ev.Topic == watch.Links || ev.Topic == watch.Lost {
		a.Relink()
	}
	a.r.Changed(ev)
}

// leaving returns a context that goes on after ctx has ended until the node's
// addresses are with others, or nobody can take them.
func (a *announcer) leaving(ctx context.Context) context.Context {
	out, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		a.Leave()
		end()
	})
	return out
}
