// SPDX-License-Identifier: Apache-2.0

// Package reconcile brings the node to what the objects say. One loop looks at
// the whole, level-triggered: whatever changed and however often, it computes
// what must be from what is known and applies the difference, in an order that
// keeps traffic right at each step. What fails is said, tried again, and stops
// nothing else.
//
// It keeps no state of its own beyond what can be found again: objects come
// from the source or the snapshot, endpoints from leases and links, the rest
// from the kernel.
package reconcile

import (
	"context"
	"log/slog"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/endpoints"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/reconcile/problems"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// Datapath is what is asked of pkg/datapath.
type Datapath interface {
	SetNIC(datapath.NIC) error
	RemoveNIC(index int) error
	NICs() ([]datapath.NIC, error)
	SetTunnel(datapath.Tunnel) error
	endpoints.Datapath
	SetServices([]service.Entry) error
	SetRoutes([]datapath.Route) error
	SetPeers([]datapath.Peer) error
	Drops() ([]datapath.Drop, error)
	Frontends() []datapath.Frontend
}

// Options are what a Reconciler works with.
type Options struct {
	Config   config.Config
	Datapath Datapath
	Leases   *store.Store
	Writer   source.Writer // for this node's report; nil: none is written
	Version  string        // of the program
	Log      *slog.Logger
	// OnServices is told the health-check node ports after each change, if set.
	OnServices func([]service.HealthCheck)
	// Meter counts what is done, if set.
	Meter Meter
	// Addresses lists the LoadBalancer addresses, if set.
	Addresses func() ([]agentapi.Address, error)
	// Parts are kept in force beside the reconciler's own.
	Parts []parts.Part
}

// Meter counts what a Reconciler does.
type Meter interface {
	Changed(kind source.Kind)            // an object of the kind changed
	Pass(took time.Duration, failed int) // a pass ended, with so many parts failed
	InForce(v4, v6 []time.Time)          // endpoints that changed at these times are balanced as they are
}

// Reconciler keeps a node as the objects say. Make one with New.
type Reconciler struct {
	Options
	pods     *endpoints.Table
	others   *parts.Set
	problems *problems.Set
	sysctls  netdev.Sysctls
	wake     chan struct{} // there is something for the loop
	note     chan struct{} // there is something for the scribe
	synced   chan struct{} // closed when all that objects say is in force
	started  time.Time

	mu       sync.Mutex // guards what follows
	store    *source.Store
	services *convert.Services
	dirty    part
	restored bool            // the snapshot had objects
	trusted  time.Time       // from when on the snapshot counts
	unsaved  bool            // the snapshot lags behind
	triggers triggers        // of endpoints whose change is not in force yet
	waiting  []chan struct{} // closed once the frontends are in force
	view     view
	told     map[string][]plan.RemoteNIC // nodes' NICs, as their agents tell
	awaited  map[netdev.Neighbour]bool   // whose MAC address matters

	// The loop's own.
	nics     []nic.NIC
	attached map[int]datapath.NIC // NICs as the datapath has them from us
	macs     map[netdev.Neighbour][6]byte
	net      plan.Network
	entries  []service.Entry // last computed
	tunnel   datapath.Tunnel
	marked   time.Time // when the ready file was last written
}

// part is a set of parts of the node that a pass looks at.
type part uint8

const (
	partLinks part = 1 << iota
	partNetwork
	partEndpoints
	partServices
	partRules

	partAll = partLinks | partNetwork | partEndpoints | partServices | partRules
)

const (
	settleTime = 2 * time.Millisecond // what changes together is taken together
	retryFirst = 500 * time.Millisecond
	retryLast  = 30 * time.Second
	sweepEvery = 6                // renewals between looks for pods that vanished
	sourceTime = 3 * time.Second  // for the source, while what an earlier agent put in force still serves
	renewal    = 10 * time.Second // how often the node is looked at unasked
)

// New returns a Reconciler with the objects of the snapshot, if there is one.
func New(o Options) *Reconciler {
	r := &Reconciler{
		Options: o, problems: problems.New(o.Log), sysctls: netdev.Sysctls(o.Config.Paths.Sysctl), started: time.Now(),
		wake: make(chan struct{}, 1), note: make(chan struct{}, 1), synced: make(chan struct{}),
		services: convert.NewServices(o.Config.ServiceCIDRs), dirty: partAll,
		attached: map[int]datapath.NIC{},
	}
	r.pods = endpoints.New(o.Datapath, o.Leases, o.Config.Paths.Gate(), func() { r.touch(partServices) }, o.Log)
	r.others = parts.New(parts.Options{Parts: o.Parts, Objects: r.objects, Note: func(part string, err error) {
		r.problems.Note("agent/"+part, err)
		signal(r.note)
	}})
	r.restore()
	return r
}

// Kinds are the objects that the agent follows.
func (r *Reconciler) Kinds() []source.Kind {
	own := append(convert.Kinds(), source.KindIPBlock, source.KindIPAllocation, source.KindNodeNetworkState)
	return source.Distinct(append(own, r.others.Kinds()...))
}

// Wake runs the part of that name soon.
func (r *Reconciler) Wake(part string) { r.others.Wake(part) }

// Run makes passes until ctx ends, and leaves everything in force then.
func (r *Reconciler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.loop(ctx) })
	group.Go(func() error { return r.scribe(ctx) })
	group.Go(func() error { return r.pods.Run(ctx) })
	group.Go(func() error { return r.others.Run(ctx) })
	return group.Wait()
}

func (r *Reconciler) loop(ctx context.Context) error {
	renew := time.NewTicker(renewal)
	defer renew.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	backoff, renewals := retryFirst, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			settle(ctx, settleTime)
		case <-renew.C:
			if renewals++; renewals%sweepEvery == 0 {
				r.mark(partEndpoints)
			}
		case <-again.C:
		}
		failed := r.pass()
		if failed == 0 {
			backoff = retryFirst
			if wait := r.deference(); wait > 0 {
				again.Reset(wait)
			}
			continue
		}
		r.mark(failed)
		again.Reset(backoff)
		backoff = min(2*backoff, retryLast)
	}
}

// deference is how long the snapshot still leaves the word to the source.
func (r *Reconciler) deference() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.restored {
		return 0
	}
	return time.Until(r.trusted)
}

func settle(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// touch has the loop look at parts soon.
func (r *Reconciler) touch(p part) {
	r.mark(p)
	signal(r.wake)
}

// mark has the loop look at parts when it next wakes.
func (r *Reconciler) mark(p part) {
	r.mu.Lock()
	r.dirty |= p
	r.mu.Unlock()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pass looks at what is dirty, in order, and returns the parts that failed. A
// step may make later ones dirty.
func (r *Reconciler) pass() (failed part) {
	began := time.Now()
	steps := []struct {
		part  part
		name  string
		run   func() error
		blind bool // needs no objects
	}{
		{partLinks, "nics", r.syncLinks, true},
		{partNetwork, "network", r.syncNetwork, false},
		{partEndpoints, "endpoints", r.pods.Adopt, true},
		{partServices, "services", r.syncServices, false},
		{partRules, "masquerade", r.syncRules, false},
	}
	r.others.Begin()
	known := r.objectsKnown()
	for _, s := range steps {
		if !known && !s.blind || !r.take(s.part) {
			continue
		}
		err := s.run()
		r.problems.Note("agent/"+s.name, err)
		if err != nil {
			failed |= s.part
		}
	}
	if known && failed&partServices == 0 {
		r.finish()
	}
	r.others.Release(known)
	if r.Meter != nil {
		r.Meter.Pass(time.Since(began), bits.OnesCount8(uint8(failed)))
	}
	r.update(func(v *view) { v.passed = time.Now() })
	return failed
}

// take tells whether the part is dirty, and takes it for clean.
func (r *Reconciler) take(p part) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.dirty&p != 0
	r.dirty &^= p
	return was
}

// objectsKnown tells whether all objects are known, from the source or from
// the last snapshot: before that an absent object means nothing. The snapshot
// may be older than what is in force, so the source goes before it.
func (r *Reconciler) objectsKnown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.store.Synced(r.Kinds()...) || r.restored && !time.Now().Before(r.trusted)
}

// SetSuspect names the nodes that are likely dead: others' endpoints go before
// theirs.
func (r *Reconciler) SetSuspect(nodes map[string]bool) {
	r.mu.Lock()
	r.services.SetSuspect(nodes)
	r.mu.Unlock()
	r.touch(partServices)
}

// SetRemoteNICs says what the nodes' agents tell of their NICs; of those that are
// not heard the objects do.
func (r *Reconciler) SetRemoteNICs(told map[string][]plan.RemoteNIC) {
	r.mu.Lock()
	r.told = told
	r.mu.Unlock()
	r.touch(partNetwork)
}

// Problem notes what is wrong with something beside the reconciler, or with nil
// that it is well again.
func (r *Reconciler) Problem(object string, err error) { r.problems.Note(object, err) }
