// SPDX-License-Identifier: Apache-2.0

// Package parts runs what hooks into the reconciler from outside: each part of
// a node's network that another package keeps in force. A part is run after a
// pass that its objects, the NICs or the node's own object made necessary, and
// again with back-off when it fails. Parts run beside each other and beside the
// passes, each one never twice at a time: what one waits for stops no other.
package parts

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Part is what hooks in. Its state is its own.
type Part struct {
	Name string
	// Kinds of objects that it looks at, beside its node's own.
	Kinds []source.Kind
	// Early parts are run before all objects are known, too: they look at
	// Objects.Known themselves, as an absent object means nothing then.
	Early bool
	// Sync brings the part to what the objects say; its error becomes a problem
	// of the agent. The objects are shared and must not be changed.
	Sync func(ctx context.Context, v Objects) error
	// Report adds to the node's report, if set. It is called at any time.
	Report func(*v1alpha1.NodeNetworkStateStatus)
}

// Objects is what a part looks at.
type Objects struct {
	Node  string        // this node's name
	Store *source.Store // read only
	NICs  []nic.NIC     // with their roles
	// Entries are the frontends, once they have been computed from all objects.
	Entries  []service.Entry
	Computed bool
	// Known: all objects have been read, from the source or the last snapshot.
	Known bool
}

// How long a part that failed waits before it is run again.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 30 * time.Second
)

// Options are what a Set works with.
type Options struct {
	Parts   []Part
	Objects func() Objects
	// Note is told what became of a part each time it ran.
	Note func(part string, err error)
}

// Set is the parts of a node. Make one with New.
type Set struct {
	Options
	mu      sync.Mutex
	pass    int // that is under way, or was last
	runners []*runner
}

type runner struct {
	Part
	due    bool // at the end of the pass
	marked int  // in this pass, last
	wake   chan struct{}
}

// New returns a set, in which everything is to be run once.
func New(o Options) *Set {
	s := &Set{Options: o}
	for _, p := range o.Parts {
		s.runners = append(s.runners, &runner{Part: p, due: true, marked: -1, wake: make(chan struct{}, 1)})
	}
	return s
}

// Kinds are those that any part looks at.
func (s *Set) Kinds() []source.Kind {
	var kinds []source.Kind
	for _, r := range s.runners {
		kinds = append(kinds, r.Kinds...)
	}
	return kinds
}

// Mark has the parts that look at a kind run after the pass.
func (s *Set) Mark(kind source.Kind) {
	s.mark(func(r *runner) bool { return slices.Contains(r.Kinds, kind) })
}

// MarkAll has all parts run after the pass.
func (s *Set) MarkAll() { s.mark(func(*runner) bool { return true }) }

func (s *Set) mark(which func(*runner) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		if which(r) {
			r.due, r.marked = true, s.pass
		}
	}
}

// Begin says that a pass begins.
func (s *Set) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass++
}

// Release runs what is marked; before all objects are known, only early parts.
// What was marked while the pass was under way, which may have looked before, is
// run again after the next.
func (s *Set) Release(known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		if r.due && (known || r.Early) {
			r.due = r.marked == s.pass
			r.signal()
		}
	}
}

// Wake runs the part of that name as soon as it can be.
func (s *Set) Wake(name string) {
	for _, r := range s.runners {
		if r.Name == name && (r.Early || s.Objects().Known) {
			r.signal()
		}
	}
}

func (r *runner) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs the parts until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range s.runners {
		group.Go(func() error { return s.keep(ctx, r) })
	}
	return group.Wait()
}

func (s *Set) keep(ctx context.Context, r *runner) error {
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	backoff := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-again.C:
		}
		err := r.Sync(ctx, s.Objects())
		if ctx.Err() != nil {
			return nil
		}
		s.Note(r.Name, err)
		if err == nil {
			backoff = retryFirst
			continue
		}
		again.Reset(backoff)
		backoff = min(2*backoff, retryLast)
	}
}

// Report adds what the parts say to the node's report.
func (s *Set) Report(status *v1alpha1.NodeNetworkStateStatus) {
	for _, r := range s.runners {
		if r.Report != nil {
			r.Report(status)
		}
	}
}
