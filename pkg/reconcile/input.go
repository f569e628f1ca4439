// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
	"github.com/patchbay-net/patchbay/pkg/source"
)

const saveDelay = 2 * time.Second // the snapshot is this much behind

// Apply takes an event of the source in.
func (r *Reconciler) Apply(ev source.Event) {
	if ev.Op == source.Problem {
		r.problems.Note(problemName(ev), ev.Err)
		return
	}
	if ev.Op == source.Upsert || ev.Op == source.Delete {
		r.problems.Note(problemName(ev), nil)
	}
	r.mu.Lock()
	dirty, changed := part(0), false
	for _, change := range r.store.Changes(ev) {
		r.services.Apply(change)
		dirty |= r.concerns(change)
		r.concernsOthers(change)
		r.unsaved, changed = true, true
		r.meter(change)
	}
	r.mu.Unlock()
	if !changed {
		return
	}
	r.mark(dirty)
	if r.objectsKnown() { // else there is nothing to be done with it yet
		signal(r.wake)
		signal(r.note)
	}
}

// concerns returns the parts that an object's change may matter to.
func (r *Reconciler) concerns(ev source.Event) part {
	if ev.Op == source.Synced {
		return partAll &^ partEndpoints
	}
	switch ev.Kind {
	case source.KindService, source.KindEndpointSlice:
		return partServices
	case source.KindNode:
		if ev.Key.Name == r.Config.NodeName {
			return partLinks | partNetwork | partServices | partRules
		}
		return partNetwork | partServices | partRules
	case source.KindIPPool:
		return partLinks | partServices
	case source.KindIPBlock:
		return partNetwork | partRules
	case source.KindNodeNetworkState:
		return partNetwork
	}
	return 0
}

// concernsOthers has the parts run that an object's change may matter to.
func (r *Reconciler) concernsOthers(ev source.Event) {
	if ev.Op == source.Synced || ev.Kind == source.KindNode && ev.Key.Name == r.Config.NodeName {
		r.others.MarkAll()
		return
	}
	r.others.Mark(ev.Kind)
}

// meter counts a change, and notes when its cause was: Kubernetes writes that on
// the slice. What the source tells at first is none.
func (r *Reconciler) meter(ev source.Event) {
	if r.Meter == nil || ev.Op == source.Synced {
		return
	}
	r.Meter.Changed(ev.Kind)
	if slice, ok := ev.Object.(*discoveryv1.EndpointSlice); ok && r.Synced() {
		r.triggers.add(slice)
	}
}

// triggers are when the causes of changes were, by family.
type triggers struct{ v4, v6 []time.Time }

const maxTriggers = 1000 // noted of a family between two passes

func (t *triggers) add(slice *discoveryv1.EndpointSlice) {
	list := &t.v4
	if slice.AddressType == discoveryv1.AddressTypeIPv6 {
		list = &t.v6
	}
	if len(*list) >= maxTriggers {
		return
	}
	if at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		*list = append(*list, at)
	}
}

// Changed takes a change of the node's own network in.
func (r *Reconciler) Changed(ev watch.Event) {
	switch ev.Topic {
	case watch.Links:
		r.touch(partLinks)
	case watch.Routes:
		r.touch(partLinks | partNetwork)
	case watch.Neighbours:
		if r.awaits(netdev.Neighbour{Link: ev.Link, Addr: ev.Addr}) {
			r.touch(partNetwork)
		}
	case watch.Rules:
		r.touch(partRules)
	case watch.Lost:
		r.touch(partAll &^ partEndpoints)
	}
}

func (r *Reconciler) awaits(n netdev.Neighbour) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.awaited[n]
}

// restore begins with the objects of the snapshot. Without one, or with a
// damaged one, nothing is known until the source has spoken. One without any
// node is of no use either: there is always this one.
func (r *Reconciler) restore() {
	store, err := source.LoadStore(r.Config.Paths.Snapshot())
	r.problems.Note("agent/snapshot", err)
	r.store = store
	r.restored = store.Len(source.KindNode) > 0
	r.trusted = time.Now()
	if len(r.Datapath.Frontends()) > 0 {
		r.trusted = r.trusted.Add(sourceTime)
	}
	for _, kind := range r.Kinds() {
		for _, obj := range source.List[source.Object](store, kind) {
			r.services.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
		}
	}
}

// scribe writes what others read later: the snapshot and this node's report.
// It is kept apart from the loop, as both may have to wait.
func (r *Reconciler) scribe(ctx context.Context) error {
	backoff := retryFirst
	for {
		select {
		case <-ctx.Done():
			r.problems.Note("agent/snapshot", r.save())
			return nil
		case <-r.note:
		}
		settle(ctx, saveDelay)
		err := r.save()
		r.problems.Note("agent/snapshot", err)
		reported := r.report(ctx)
		r.problems.Note("agent/report", reported)
		if err == nil && reported == nil {
			backoff = retryFirst
			continue
		}
		settle(ctx, backoff)
		backoff = min(2*backoff, retryLast)
		signal(r.note)
	}
}

// save writes the snapshot if it lags behind, and once all objects are known.
func (r *Reconciler) save() error {
	if !r.objectsKnown() {
		return nil
	}
	r.mu.Lock()
	due := r.unsaved
	r.unsaved = false
	r.mu.Unlock()
	if !due {
		return nil
	}
	err := r.store.Save(r.Config.Paths.Snapshot())
	if err != nil {
		r.mu.Lock()
		r.unsaved = true
		r.mu.Unlock()
	}
	return err
}

// problemName names what a source's problem is about: the object, else what its
// error begins with, which is a file or a kind.
func problemName(ev source.Event) string {
	if ev.Key != (source.Key{}) {
		return "source " + string(ev.Kind) + " " + ev.Key.String()
	}
	if ev.Err == nil {
		return "source"
	}
	origin, _, _ := strings.Cut(ev.Err.Error(), ": ")
	return "source " + origin
}
