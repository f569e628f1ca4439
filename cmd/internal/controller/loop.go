// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// Delays of the loop.
const (
	gather  = 20 * time.Millisecond // for more events, before acting on one
	recheck = 5 * time.Second       // where an address may come free by time alone
	resync  = time.Minute           // in any case
	maxWait = 30 * time.Second      // between attempts that fail
)

// loop keeps everything that the controller decides as it should be: whatever
// changes, it looks at all there is and brings it in line. All of its state but
// the store is that of one goroutine.
type loop struct {
	source    source.Source
	store     *source.Store
	now       func() time.Time // of day: for what is written; nothing is measured by it
	log       *slog.Logger
	absent    *absentees
	addresses *addresses
	blocks    *nodeBlocks
	routes    *nodeRoutes
	synced    func() // told when all has been read; may be nil
	failures  int
}

func newLoop(to access, class convert.Class, now func() time.Time, log *slog.Logger) *loop {
	store := source.NewStore()
	absent := newAbsentees(store)
	l := &loop{
		source: to.source, store: store, now: now, log: log, absent: absent,
		addresses: newAddresses(store, to, absent, class, log),
		blocks:    newNodeBlocks(store, to, absent, log),
	}
	l.routes = &nodeRoutes{store: store, status: l.addresses.status}
	l.addresses.counted = func() []loadbalancer.Usage { return l.blocks.usage }
	return l
}

// kinds are what the controller must have read before it decides anything.
func kinds() []source.Kind {
	return []source.Kind{
		source.KindService, source.KindNamespace, source.KindNode,
		source.KindIPPool, source.KindIPAllocation, source.KindIPBlock, source.KindNodeNetworkState,
		source.KindNodeRoute,
	}
}

// Run follows the source until ctx ends or the source fails.
func (l *loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, done := make(chan source.Event), make(chan error, 1)
	go func() {
		done <- l.source.Run(ctx, kinds(), func(ev source.Event) {
			select {
			case events <- ev:
			case <-ctx.Done():
			}
		})
	}()
	timer := time.NewTimer(resync)
	due := time.Now().Add(resync)
	for {
		select {
		case ev := <-events:
			l.take(ev)
			if soon := time.Now().Add(gather); soon.Before(due) {
				due = soon
				timer.Reset(gather)
			}
		case <-timer.C:
			wait := l.reconcile(ctx)
			due = time.Now().Add(wait)
			timer.Reset(wait)
		case err := <-done:
			if err != nil {
				return fmt.Errorf("read objects: %w", err)
			}
			return nil
		}
	}
}

// take enters an event into the store.
func (l *loop) take(ev source.Event) {
	l.absent.observe(ev)
	if ev.Op == source.Problem {
		l.log.Warn("object not used", "kind", ev.Kind, "object", ev.Key.String(), "error", ev.Err)
		return
	}
	l.store.Apply(ev)
}

// reconcile acts once, if all that existed has been read, and returns when to
// act again at the latest.
func (l *loop) reconcile(ctx context.Context) time.Duration {
	if !l.store.Synced(kinds()...) {
		return resync
	}
	if l.synced != nil {
		l.synced()
	}
	errBlocks := errors.Join(l.blocks.reconcile(ctx, time.Now()), l.routes.reconcile(ctx))
	again, err := l.addresses.reconcile(ctx, l.now())
	err = errors.Join(err, errBlocks)
	if err != nil && ctx.Err() == nil {
		l.failures++
		l.addresses.meter.failures.Inc()
		wait := min(time.Second<<min(l.failures-1, 10), maxWait)
		l.log.Error("reconcile", "error", err, "again", wait)
		return wait
	}
	l.failures = 0
	if again {
		return recheck
	}
	return resync
}
