// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Allocations writes who announces each address, and who else claims it, and
// tells the address's Services when it moves.
func (w *Writer) Allocations(ctx context.Context, conflicts map[string][]v1alpha1.AddressConflict) error {
	var errs []error
	for _, obj := range source.List[*v1alpha1.IPAllocation](w.store, source.KindIPAllocation) {
		addr, err := netip.ParseAddr(obj.Spec.Address)
		if err != nil {
			continue // said where the records are read
		}
		want := obj.DeepCopy()
		want.Status = v1alpha1.IPAllocationStatus{}
		if obj.Spec.State == v1alpha1.AllocationActive {
			now, _ := announcer(w.Net.Announcers(addr), obj.Status)
			want.Status.Announcer, want.Status.Epoch = now.Node, max(now.Epoch, obj.Status.Epoch)
			w.moved(obj, now)
		}
		for i, c := range conflicts[obj.Spec.Pool] {
			if c.Address == obj.Spec.Address {
				want.Status.Conflict = &conflicts[obj.Spec.Pool][i]
			}
		}
		errs = append(errs, w.Update(ctx, source.KindIPAllocation, obj.Status, want.Status, want))
	}
	return errors.Join(errs...)
}

// announcer is the node that announces an address, of those that report that
// they do: the report of a dead node stays. It is the one that is known, until
// another one took the address after it.
func announcer(reports []network.Announcer, known v1alpha1.IPAllocationStatus) (network.Announcer, bool) {
	if len(reports) == 0 {
		return network.Announcer{}, false
	}
	last := slices.MaxFunc(reports, func(a, b network.Announcer) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(b.Node, a.Node))
	})
	i := slices.IndexFunc(reports, func(a network.Announcer) bool { return a.Node == known.Announcer })
	if i >= 0 && last.Epoch <= known.Epoch {
		return reports[i], true
	}
	return last, true
}

// announcer is the node that announces an address.
func (w *Writer) announcer(addr netip.Addr) (network.Announcer, bool) {
	obj, ok := source.Get[*v1alpha1.IPAllocation](w.store, source.KindIPAllocation, source.Key{Name: v1alpha1.AllocationName(addr)})
	if !ok {
		return network.Announcer{}, false
	}
	return announcer(w.Net.Announcers(addr), obj.Status)
}

// moved tells the Services of an address that it went to another node, and why.
func (w *Writer) moved(obj *v1alpha1.IPAllocation, now network.Announcer) {
	for _, owner := range obj.Spec.Owners {
		svc, ok := source.Get[*corev1.Service](w.store, source.KindService, source.Key{Namespace: owner.Namespace, Name: owner.Name})
		if !ok {
			continue
		}
		t := told{object{source.KindService, source.KeyOf(svc)}, "announcer of " + obj.Spec.Address}
		before := cmp.Or(w.told[t], obj.Status.Announcer)
		w.told[t] = now.Node
		if before == now.Node || now.Node == "" {
			continue
		}
		reason, text := "AddressAnnounced", fmt.Sprintf("%s is announced by node %s", obj.Spec.Address, now.Node)
		if before != "" {
			reason, text = "AddressMoved", fmt.Sprintf("%s moved from node %s to node %s", obj.Spec.Address, before, now.Node)
		}
		if now.Reason != "" {
			text += ": " + now.Reason
		}
		w.log.Info(text, "service", t.key.String())
		w.events.Event(svc, corev1.EventTypeNormal, reason, text)
	}
}
