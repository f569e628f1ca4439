// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing/sandboxes"
)

// When the runtime is asked for its sandboxes: soon after the start, a minute later,
// and now and then. It lists a sandbox only behind its ADD, so a lease must have
// been without one at two looks.
const (
	firstLook  = 5 * time.Second
	secondLook = time.Minute
	laterLooks = 15 * time.Minute
)

// stale are leases without a sandbox at the last look, by their generation.
type stale map[store.Key]uint64

// reconcileSandboxes ends what the runtime has no sandbox for any more: containerd
// doesn't call GC, and a DEL may have been lost. A runtime that knows none of the
// node's pods isn't the one that made them, and says nothing.
func (t *Table) reconcileSandboxes(ctx context.Context, before stale) (stale, error) {
	now, err := t.staleLeases(ctx)
	if err != nil || len(now) == 0 {
		return now, err
	}
	again := stale{}
	for key, generation := range now {
		if before[key] == generation {
			again[key] = generation
		}
	}
	if len(again) > 0 {
		err = t.endStale(again)
	}
	return now, err
}

// staleLeases are the leases of pods that the runtime doesn't know.
func (t *Table) staleLeases(ctx context.Context) (stale, error) {
	socket := sandboxes.Find(t.Runtimes)
	if socket == "" {
		return nil, nil
	}
	contents, err := t.Leases.List() // before the sandboxes: a pod that comes meanwhile isn't judged
	if err != nil {
		return nil, err
	}
	ids, err := sandboxes.List(ctx, socket)
	if err != nil {
		return nil, err
	}
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	out, known := stale{}, false
	for _, l := range contents.Leases {
		if l.Damaged || l.PodUID == "" || l.BootID != bootID {
			continue
		}
		if slices.Contains(ids, l.ContainerID) {
			known = true
		} else {
			out[l.Key] = l.Generation
		}
	}
	if !known {
		return nil, nil
	}
	return out, nil
}

// endStale takes interfaces and leases away while no ADD is under way.
func (t *Table) endStale(gone stale) error {
	gate, err := t.gate.Take(flock.Exclusive, gateWait)
	if err != nil {
		return err
	}
	defer gate.Close()
	links, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	var errs []error
	doomed := map[int]string{}
	for key := range gone {
		if link, ok := links[key.Link()]; ok {
			doomed[link.Index] = link.Name
		}
		errs = append(errs, leg.Remove(leg.HostName(key.ContainerID, key.IfName)))
	}
	if err := errors.Join(append(errs, netdev.RemovePodLinks(doomed))...); err != nil {
		return err
	}
	for key, generation := range gone {
		lease, found, err := t.Leases.Release(key, generation)
		errs = append(errs, err)
		if found {
			t.Log.Info("the runtime has no such sandbox; its addresses begin to rest", "lease", key, "addrs", lease.Addrs)
		}
	}
	return errors.Join(errs...)
}

// watchSandboxes looks at them until ctx ends.
func (t *Table) watchSandboxes(ctx context.Context) error {
	var last stale
	wait := firstLook
	for looks := 0; ; looks++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = secondLook
		found, err := t.reconcileSandboxes(ctx, last)
		if err != nil && ctx.Err() == nil {
			t.Log.Warn("compare leases with the runtime's sandboxes", "err", err)
			continue
		}
		last = found
		if looks > 0 && len(found) == 0 {
			wait = laterLooks
		}
	}
}
