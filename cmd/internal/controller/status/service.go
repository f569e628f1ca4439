// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Service writes a Service's addresses and why it lacks any. One that is gone
// is no error.
func (w *Writer) Service(ctx context.Context, as loadbalancer.Assignment) error {
	svc, ok := source.Get[*corev1.Service](w.store, source.KindService, source.Key(as.Service))
	if !ok {
		return nil
	}
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = nil
	for _, addr := range as.Addrs {
		mode := corev1.LoadBalancerIPModeVIP
		want.Status.LoadBalancer.Ingress = append(want.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	w.conditions(svc, as, &want.Status.Conditions)
	fresh := !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, want.Status.LoadBalancer.Ingress, sameIP)
	w.fact(svc, "addresses", corev1.EventTypeNormal, "AddressesAssigned", join(as.Addrs), fresh)
	return w.Update(ctx, source.KindService, svc.Status, want.Status, want)
}

func sameIP(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }

func join(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, addr := range addrs {
		texts[i] = addr.String()
	}
	return strings.Join(texts, " and ")
}

// conditions sets what is to be said of a Service's addresses, and tells it.
func (w *Writer) conditions(svc *corev1.Service, as loadbalancer.Assignment, list *[]metav1.Condition) {
	address := metav1.Condition{Type: v1alpha1.ConditionAddress, Status: metav1.ConditionTrue, Reason: "Assigned"}
	eventType := corev1.EventTypeWarning
	if as.Reason != nil {
		address.Status, address.Reason, address.Message = metav1.ConditionFalse, ReasonOf(as.Reason), OneLine(as.Reason)
		if address.Reason == "Searching" {
			eventType = corev1.EventTypeNormal
		}
	} else if odd := w.remarks(as); len(odd) > 0 {
		address.Reason = odd[0].reason
		texts := make([]string, len(odd))
		for i, r := range odd {
			texts[i] = r.text
		}
		address.Message = strings.Join(texts, "; ")
	}
	changed := meta.SetStatusCondition(list, address)
	w.fact(svc, address.Type, eventType, address.Reason, address.Message, changed)

	var claims, failures []string
	for _, c := range w.Net.Claims() {
		switch {
		case !slices.Contains(as.Addrs, c.Addr):
		case c.Unheld:
			claims = append(claims, fmt.Sprintf("another machine on the network uses %s (%s): no node answers for it before that stops", c.Addr, c))
		default:
			claims = append(claims, fmt.Sprintf("another machine on the network claims %s (%s, which defends it and goes on answering)", c.Addr, c))
		}
	}
	for _, f := range w.Net.Failures() {
		if slices.Contains(as.Addrs, f.Addr) {
			failures = append(failures, fmt.Sprintf("node %s can't reach %s over the wire: %s", f.By, f.Addr, f.Message))
		}
	}
	w.while(svc, list, v1alpha1.ConditionConflict, "AddressConflict", claims)
	w.while(svc, list, v1alpha1.ConditionUnreachable, "AddressUnreachable", failures)
}

// while keeps a condition while there are texts for it, and tells when it begins,
// changes and ends.
func (w *Writer) while(svc *corev1.Service, list *[]metav1.Condition, kind, reason string, texts []string) {
	if len(texts) == 0 {
		if over := meta.RemoveStatusCondition(list, kind); w.fact(svc, kind, "", "", "", over) {
			w.events.Event(svc, corev1.EventTypeNormal, reason+"Over", "it is over")
		}
		return
	}
	condition := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: strings.Join(texts, "; ")}
	changed := meta.SetStatusCondition(list, condition)
	w.fact(svc, kind, corev1.EventTypeWarning, reason, condition.Message, changed)
}

// remark is what is odd about addresses that a Service has all the same.
type remark struct{ reason, text string }

func (w *Writer) remarks(as loadbalancer.Assignment) (list []remark) {
	for _, addr := range as.Strays {
		list = append(list, remark{"NoPoolAnyMore", fmt.Sprintf("no pool has %s any more; the Service keeps it until it asks for another", addr)})
	}
	for _, addr := range as.Addrs {
		if w.Net.Unreached(addr) {
			list = append(list, remark{"NotAnnounced", fmt.Sprintf("no node has an external NIC on the network of %s: none announces it", addr)})
		}
		if a, ok := w.announcer(addr); ok && a.Waived != "" {
			list = append(list, remark{"NodeConditionWaived", fmt.Sprintf("node %s announces %s though %s", a.Node, addr, a.Waived)})
		}
	}
	return list
}

// Clear takes one address out of a Service's status.
func (w *Writer) Clear(ctx context.Context, svc *corev1.Service, addr netip.Addr) error {
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = slices.DeleteFunc(want.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.IP == addr.String()
	})
	for _, kind := range [...]string{v1alpha1.ConditionAddress, v1alpha1.ConditionConflict, v1alpha1.ConditionUnreachable} {
		meta.RemoveStatusCondition(&want.Status.Conditions, kind)
	}
	return w.Update(ctx, source.KindService, svc.Status, want.Status, want)
}

// ReasonOf names the kind of a reason, as conditions need it.
func ReasonOf(err error) string {
	switch {
	case errors.Is(err, loadbalancer.ErrConflict):
		return "AddressConflict"
	case errors.Is(err, loadbalancer.ErrExhausted):
		return "PoolExhausted"
	case errors.Is(err, loadbalancer.ErrInUse):
		return "AddressInUse"
	case errors.Is(err, loadbalancer.ErrNoPool):
		return "NoPool"
	case errors.Is(err, loadbalancer.ErrSearching):
		return "Searching"
	}
	return "InvalidRequest"
}
