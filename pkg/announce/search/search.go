// SPDX-License-Identifier: Apache-2.0

// Package search is the agent's part that keeps addresses apart from other
// machines on the network: it searches for those that the controller reserves,
// before they are used, looks again whether those that were found in use still
// are, and watches over those that this node announces.
//
// One node searches for an address, the one that announce's choice would have
// announce it; if no result of it is to be seen, the next one after a while.
// Results stand in the node's report, where the controller reads them.
package search

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// PartName is the part's name.
const PartName = "searches"

// Times of the searches.
const (
	stagger  = 12 * time.Second // until the next node searches
	again    = time.Minute      // between looks at addresses that are in use
	retry    = 2 * time.Second  // after a search that couldn't be made
	handover = 15 * time.Second // for the datapath to answer for an address that was given
	tidy     = 2 * time.Second  // between looks at what goes by time alone
	long     = 10 * time.Second // that a search takes before it is said that it is on
)

// Options are what searches work with.
type Options struct {
	// Alive tells whether a node's agent is; nil: all are.
	Alive func(node string) bool
	// Held returns what this node announces; nil: what its report says.
	Held func() []announce.Claim
	// Wake has the part run soon, and the report written.
	Wake func()
	// Conflict counts a conflict that was found; may be nil.
	Conflict func()
	Log      *slog.Logger
}

// Searches is the part. Make one with New.
type Searches struct {
	Options
	probe   func(context.Context, probe.Target) (probe.Verdict, error)
	watcher *probe.Watcher
	kick    chan struct{} // something is in the queue

	mu        sync.Mutex
	queue     []*task // to be begun
	ours      map[[6]byte]bool
	tasks     map[netip.Addr]*task
	announced []probe.Guard
	subnets   map[int][]netip.Prefix
	told      []probe.Conflict // as last reported
}

// task is the search for one address.
type task struct {
	probe.Target
	since    time.Time     // that of the allocation
	delay    time.Duration // until it is this node's turn
	cancel   context.CancelFunc
	ctx      context.Context
	result   *v1alpha1.ProbeState
	begun    bool      // it is this node's turn
	from     time.Time // when that began
	said     bool      // that it takes long
	failing  string    // why it couldn't be made last
	reserved bool      // the address waits for the result
	given    time.Time // when it was seen that its owners have the address
	occupied bool      // it was in use when it was last searched for
}

// New returns searches of which none is on. Wake may be set until Run.
func New(o Options) *Searches {
	s := &Searches{Options: o, kick: make(chan struct{}, 1), tasks: map[netip.Addr]*task{}, ours: map[[6]byte]bool{}}
	s.probe = probe.New(s.isOurs).Probe
	s.watcher = probe.NewWatcher(s.isOurs, s.claimed, o.Log)
	return s
}

// Part returns what the reconciler runs.
func (s *Searches) Part() parts.Part {
	return parts.Part{
		Name:  PartName,
		Kinds: []source.Kind{source.KindIPAllocation, source.KindIPPool, source.KindNode, source.KindNodeNetworkState},
		Sync:  s.sync, Report: s.report,
	}
}

// Run searches and watches until ctx ends.
func (s *Searches) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.watcher.Run(ctx) })
	group.Go(func() error {
		ticker := time.NewTicker(tidy)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.kick:
				for _, t := range s.dequeue() {
					group.Go(func() error { s.follow(ctx, t); return nil })
				}
			case <-ticker.C:
				s.tidy()
			}
		}
	})
	return group.Wait()
}

func (s *Searches) enqueue(t *task) {
	s.queue = append(s.queue, t)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Searches) dequeue() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queue
	s.queue = nil
	return queue
}

func (s *Searches) isOurs(mac [6]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ours[mac]
}

// follow searches for an address, and again while it is in use by others.
func (s *Searches) follow(ctx context.Context, t *task) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	if pause(ctx, t.delay) != nil || !s.turn(t) {
		return
	}
	for {
		v, err := s.probe(ctx, s.target(t))
		if ctx.Err() != nil {
			return
		}
		wait := retry
		s.failed(t, err)
		if err == nil {
			s.found(t, v)
			if wait = again; !v.Conflict {
				return
			}
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// failed notes why a search couldn't be made, nil if it could, and tells it once.
func (s *Searches) failed(t *task, err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.mu.Lock()
	fresh := why != t.failing
	t.failing = why
	s.mu.Unlock()
	if fresh && err != nil {
		s.Log.Warn("search for other machines with an address", "address", t.Addr, "error", err, "again", retry)
	}
}

// turn begins a search, unless its result is no longer wanted.
func (s *Searches) turn(t *task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.begun, t.from = s.tasks[t.Addr] == t, time.Now()
	return t.begun
}

func (s *Searches) target(t *task) probe.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := t.Target
	target.Again = t.occupied
	return target
}

// found enters what a search found, and has it reported.
func (s *Searches) found(t *task, v probe.Verdict) {
	result := &v1alpha1.ProbeState{Address: t.Addr.String(), Since: metav1.NewTime(t.since), Result: v1alpha1.ProbeFree}
	switch {
	case v.Contest:
		result.Message = "another machine keeps searching for it"
	case v.Proxy != [6]byte{}:
		result.Message = probe.MAC(v.Proxy).String() + " answers for every address (proxy ARP), which is no conflict"
	}
	if v.Conflict {
		result.Result, result.MAC = v1alpha1.ProbeConflict, probe.MAC(v.MAC).String()
	}
	s.Log.Info("searched for other machines with an address", "address", t.Addr, "result", result.Result, "mac", result.MAC, "message", result.Message)
	s.mu.Lock()
	fresh := v.Conflict && (t.result == nil || t.result.Result != result.Result)
	if t.result == nil || *t.result != *result {
		t.result = result
	}
	t.occupied = v.Conflict
	s.guard()
	s.mu.Unlock()
	if fresh && s.Conflict != nil {
		s.Conflict()
	}
	s.Wake()
}

// claimed enters what the watcher noticed. An address that was found free, and
// is claimed before it was given, is in use after all.
func (s *Searches) claimed(c probe.Conflict) {
	s.Log.Warn("another machine claims an address of ours", "address", c.Addr, "mac", probe.MAC(c.MAC), "announced", c.Announced)
	if s.Conflict != nil {
		s.Conflict()
	}
	s.mu.Lock()
	if t := s.tasks[c.Addr]; t != nil && !c.Announced && t.given.IsZero() && t.result != nil {
		result := *t.result
		result.Result, result.MAC = v1alpha1.ProbeConflict, probe.MAC(c.MAC).String()
		t.result, t.occupied, t.delay = &result, true, again
		s.enqueue(t)
	}
	s.mu.Unlock()
	s.Wake()
}

// tidy looks at what changes by time alone.
func (s *Searches) tidy() {
	s.mu.Lock()
	for addr, t := range s.tasks {
		if !t.given.IsZero() && time.Since(t.given) >= handover {
			s.drop(addr, t)
		}
	}
	s.guard()
	now := s.watcher.Conflicts()
	changed := !slices.Equal(now, s.told)
	for _, t := range s.tasks {
		if t.lasting() && !t.said {
			t.said, changed = true, true
		}
	}
	s.mu.Unlock()
	if changed {
		s.Wake()
	}
}

func (s *Searches) drop(addr netip.Addr, t *task) {
	t.cancel()
	delete(s.tasks, addr)
}

// guard has the watcher guard what is announced, and what was found free and
// isn't announced yet.
func (s *Searches) guard() {
	guards := slices.Clone(s.announced)
	for _, t := range s.tasks {
		announced := slices.ContainsFunc(guards, func(g probe.Guard) bool { return g.Addr == t.Addr && g.Link == t.Link })
		if t.result != nil && t.result.Result == v1alpha1.ProbeFree && t.reserved && !announced {
			guards = append(guards, probe.Guard{Addr: t.Addr, Link: t.Link})
		}
	}
	s.watcher.Set(guards, s.subnets)
}

// lasting tells whether a search has been on for long.
func (t *task) lasting() bool {
	return t.begun && t.result == nil && t.failing == "" && time.Since(t.from) >= long
}

// report adds what was found to the node's report.
func (s *Searches) report(status *v1alpha1.NodeNetworkStateStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		switch {
		case t.result != nil && t.given.IsZero():
			status.Probes = append(status.Probes, *t.result)
		case t.lasting():
			status.Probes = append(status.Probes, v1alpha1.ProbeState{Address: t.Addr.String(), Since: metav1.NewTime(t.since), Result: v1alpha1.ProbeSearching})
		}
	}
	slices.SortFunc(status.Probes, func(a, b v1alpha1.ProbeState) int { return cmp.Compare(a.Address, b.Address) })
	s.told = s.watcher.Conflicts()
	for _, c := range s.told {
		if c.Announced {
			status.Conflicts = append(status.Conflicts, v1alpha1.AddressConflict{
				Address: c.Addr.String(), MAC: probe.MAC(c.MAC).String(), Since: metav1.NewTime(c.Since.Truncate(time.Second)),
			})
		}
	}
	status.Conflicts = slices.CompactFunc(status.Conflicts, func(a, b v1alpha1.AddressConflict) bool { return a.Address == b.Address })
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
