// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
)

// When endpoints are looked through: some times soon after the start, as a DEL
// that found no agent may have been under way when they were adopted; and marked
// leases now and then, as a DEL may have been killed that had marked one.
const (
	firstLook  = 2 * time.Second
	nextLooks  = 4 * time.Second
	laterLooks = 30 * time.Second
	earlyLooks = 3
	retryReap  = time.Second // when what couldn't be removed is tried again
)

// doom names what the reaper is to remove.
type doom struct {
	key   agentapi.EndpointKey
	index int
}

// Run removes the links of endpoints that are no more, those that gather while
// it is at work together, and ends their leases. It ends with ctx.
func (t *Table) Run(ctx context.Context) error {
	look := time.NewTimer(firstLook)
	defer look.Stop()
	for looks := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			examine, next := t.endMarked, laterLooks
			if looks++; looks <= earlyLooks {
				examine, next = t.Adopt, nextLooks
			}
			if err := examine(); err != nil {
				t.log.Warn("look through endpoints", "err", err)
			}
			look.Reset(next)
		case <-t.reaping:
			if err := t.removeDoomed(); err != nil {
				t.log.Warn("remove pods' links", "err", err)
				time.AfterFunc(retryReap, t.wakeReaper)
			}
		}
	}
}

// reap has the reaper remove an endpoint's link, and end its lease.
func (t *Table) reap(d agentapi.EndpointDelete) {
	if !netdev.IsPodLink(d.HostIfName) {
		d.HostIfIndex = 0 // not ours
	}
	if d.HostIfIndex == 0 && !d.EndsLease {
		return
	}
	t.mu.Lock()
	what := doom{d.EndpointKey, d.HostIfIndex}
	if was, ok := t.doomed[what]; !ok || d.EndsLease || !was.EndsLease {
		t.doomed[what] = d
	}
	t.mu.Unlock()
	t.wakeReaper()
}

func (t *Table) wakeReaper() {
	select {
	case t.reaping <- struct{}{}:
	default:
	}
}

// removeDoomed removes what the reaper was told of. What it can't remove waits for
// the next time, and holds its addresses.
func (t *Table) removeDoomed() error {
	t.mu.Lock()
	due := maps.Clone(t.doomed)
	t.mu.Unlock()
	links := map[int]string{}
	for _, d := range due {
		if d.HostIfIndex != 0 {
			links[d.HostIfIndex] = d.HostIfName
		}
	}
	errs := []error{netdev.RemovePodLinks(links)}
	ended := map[store.Key]uint64{}
	for what, d := range due {
		index, _, err := podlink.Index(d.HostIfName)
		switch {
		case err != nil || d.HostIfIndex != 0 && index == d.HostIfIndex:
			errs = append(errs, err, fmt.Errorf("link %s is still there", d.HostIfName))
			delete(due, what)
		case d.EndsLease:
			key := store.Key(d.EndpointKey)
			ended[key] = max(ended[key], d.Generation)
		}
	}
	if err := t.leases.ReleaseAll(ended); err != nil {
		return errors.Join(append(errs, err)...)
	}
	t.mu.Lock()
	maps.DeleteFunc(t.doomed, func(what doom, d agentapi.EndpointDelete) bool {
		done, ok := due[what]
		return ok && done.Generation == d.Generation && done.EndsLease == d.EndsLease
	})
	t.mu.Unlock()
	return errors.Join(errs...)
}

// endMarked ends the leases that are marked as ended.
func (t *Table) endMarked() error {
	links, err := netdev.PodLinks() // before the leases: a link made later is another's
	if err != nil {
		return err
	}
	contents, err := t.leases.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, lease := range contents.Leases {
		if lease.Ended {
			errs = append(errs, t.Delete(ending(lease, links[lease.Link()])))
		}
	}
	return errors.Join(errs...)
}

// ending is the DEL that had marked a lease, whose link may be gone.
func ending(lease store.Lease, link netdev.Link) agentapi.EndpointDelete {
	return agentapi.EndpointDelete{
		EndpointKey: agentapi.EndpointKey(lease.Key), HostIfName: lease.Link(), HostIfIndex: link.Index,
		Addrs: lease.Addrs, Generation: lease.Generation, EndsLease: true,
	}
}
