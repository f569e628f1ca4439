// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// The conditions of a Service that tell how it fared, that another machine
// claims what it has, and that a node can't reach it over the wire.
const (
	conditionAddress     = v1alpha1.Group + "/Address"
	conditionConflict    = v1alpha1.Group + "/AddressConflict"
	conditionUnreachable = v1alpha1.Group + "/AddressUnreachable"
)

// maxConflicts is how many conflicts a pool's status has.
const maxConflicts = 64

// repeatAfter is when a status that the source doesn't show is written again.
const repeatAfter = 5 * time.Second

// statusWriter writes what Services and pools show of themselves, where it
// differs from what they show already.
type statusWriter struct {
	store   *source.Store
	writer  source.Writer
	events  recorder
	net     network.View
	log     *slog.Logger
	written map[writtenKey]written
	missed  bool // an object was not there
}

type writtenKey struct {
	kind source.Kind
	key  source.Key
}

type written struct {
	status any
	at     time.Time
}

// service writes a Service's addresses and why it lacks any. One that is gone
// is no error.
func (s *statusWriter) service(ctx context.Context, as loadbalancer.Assignment) error {
	key := source.Key(as.Service)
	svc, ok := source.Get[*corev1.Service](s.store, source.KindService, key)
	if !ok {
		return nil
	}
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = nil
	for _, addr := range as.Addrs {
		mode := corev1.LoadBalancerIPModeVIP
		want.Status.LoadBalancer.Ingress = append(want.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	s.conditions(svc, as, &want.Status.Conditions)
	if !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, want.Status.LoadBalancer.Ingress, sameIP) {
		s.log.Info("addresses assigned", "service", key.String(), "addresses", as.Addrs)
		s.events.Event(svc, corev1.EventTypeNormal, "AddressesAssigned", fmt.Sprint(as.Addrs))
	}
	return s.update(ctx, source.KindService, svc.Status, want.Status, want)
}

// conditions sets what is to be said of a Service's addresses, and tells it too
// if it is new and not all is well.
func (s *statusWriter) conditions(svc *corev1.Service, as loadbalancer.Assignment, list *[]metav1.Condition) {
	condition := metav1.Condition{Type: conditionAddress, Status: metav1.ConditionTrue, Reason: "Assigned", Message: s.remarks(as)}
	if as.Reason != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonOf(as.Reason), oneLine(as.Reason)
	}
	if meta.SetStatusCondition(list, condition) && condition.Message != "" {
		s.tell(svc, condition, corev1.EventTypeWarning)
	}
	var claims, failures []string
	for _, c := range s.net.Claims() {
		if slices.Contains(as.Addrs, c.Addr) {
			claims = append(claims, fmt.Sprintf("another machine on the network claims %s (%s)", c.Addr, c))
		}
	}
	for _, f := range s.net.Failures() {
		if slices.Contains(as.Addrs, f.Addr) {
			failures = append(failures, fmt.Sprintf("node %s can't reach %s over the wire: %s", f.By, f.Addr, f.Message))
		}
	}
	s.while(svc, list, conditionConflict, "AddressConflict", claims)
	s.while(svc, list, conditionUnreachable, "AddressUnreachable", failures)
}

// while keeps a condition while there are texts for it.
func (s *statusWriter) while(svc *corev1.Service, list *[]metav1.Condition, kind, reason string, texts []string) {
	if len(texts) == 0 {
		meta.RemoveStatusCondition(list, kind)
		return
	}
	condition := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: strings.Join(texts, "; ")}
	if meta.SetStatusCondition(list, condition) {
		s.tell(svc, condition, corev1.EventTypeWarning)
	}
}

// tell tells what a condition says.
func (s *statusWriter) tell(svc *corev1.Service, condition metav1.Condition, eventType string) {
	if condition.Reason == "Searching" {
		s.log.Info("address reserved", "service", source.KeyOf(svc).String(), "message", condition.Message)
		return
	}
	s.log.Warn("addresses not as wished", "service", source.KeyOf(svc).String(), "reason", condition.Reason, "message", condition.Message)
	s.events.Event(svc, eventType, condition.Reason, condition.Message)
}

// remarks says what is odd about addresses that a Service has.
func (s *statusWriter) remarks(as loadbalancer.Assignment) string {
	var remarks []string
	for _, addr := range as.Strays {
		remarks = append(remarks, fmt.Sprintf("no pool has %s any more; the Service keeps it until it asks for another", addr))
	}
	for _, addr := range as.Addrs {
		if s.net.Unreached(addr) {
			remarks = append(remarks, fmt.Sprintf("no node has an external NIC on the network of %s: none announces it", addr))
		}
	}
	return strings.Join(remarks, "; ")
}

// warn tells Services something.
func (s *statusWriter) warn(names []loadbalancer.Name, reason, message string) {
	for _, name := range names {
		s.log.Warn(message, "service", name.String())
		if svc, ok := source.Get[*corev1.Service](s.store, source.KindService, source.Key(name)); ok {
			s.events.Event(svc, corev1.EventTypeWarning, reason, message)
		}
	}
}

func sameIP(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }

// clear takes one address out of a Service's status.
func (s *statusWriter) clear(ctx context.Context, svc *corev1.Service, addr netip.Addr) error {
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = slices.DeleteFunc(want.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.IP == addr.String()
	})
	meta.RemoveStatusCondition(&want.Status.Conditions, conditionAddress)
	meta.RemoveStatusCondition(&want.Status.Conditions, conditionConflict)
	meta.RemoveStatusCondition(&want.Status.Conditions, conditionUnreachable)
	return s.update(ctx, source.KindService, svc.Status, want.Status, want)
}

// allocations writes who announces each address, and who else claims it.
func (s *statusWriter) allocations(ctx context.Context, conflicts map[string][]v1alpha1.AddressConflict) error {
	var errs []error
	for _, obj := range source.List[*v1alpha1.IPAllocation](s.store, source.KindIPAllocation) {
		addr, err := netip.ParseAddr(obj.Spec.Address)
		if err != nil {
			continue // said where the records are read
		}
		want := obj.DeepCopy()
		want.Status = v1alpha1.IPAllocationStatus{}
		if obj.Spec.State == v1alpha1.AllocationActive {
			want.Status.Announcer = s.net.Announcer(addr)
		}
		for i, c := range conflicts[obj.Spec.Pool] {
			if c.Address == obj.Spec.Address {
				want.Status.Conflict = &conflicts[obj.Spec.Pool][i]
			}
		}
		errs = append(errs, s.update(ctx, source.KindIPAllocation, obj.Status, want.Status, want))
	}
	return errors.Join(errs...)
}

// pools writes the counts of the pools that give addresses to Services, what is
// wrong with the others, and of pools of any use which overlap.
func (s *statusWriter) pools(ctx context.Context, usage []loadbalancer.Usage, bad map[string]error, conflicts map[string][]v1alpha1.AddressConflict) error {
	pools := source.List[*v1alpha1.IPPool](s.store, source.KindIPPool)
	overlapping := overlaps(pools)
	var errs []error
	for _, pool := range pools {
		errs = append(errs, s.pool(ctx, pool, func(st *v1alpha1.IPPoolStatus) {
			s.describe(st, pool.Name, usage, bad[pool.Name])
			if pool.Spec.Use == v1alpha1.UseLoadBalancer {
				s.conflicts(st, pool.Name, conflicts[pool.Name])
				s.draining(st, pool, usage)
			}
			s.overlapping(st, pool.Name, overlapping[pool.Name])
		}))
	}
	return errors.Join(errs...)
}

// describe sets what is known of a pool for Services; others it leaves alone.
func (s *statusWriter) describe(st *v1alpha1.IPPoolStatus, name string, usage []loadbalancer.Usage, bad error) {
	if bad != nil && set(st, "Ready", metav1.ConditionFalse, "Invalid", oneLine(bad)) {
		s.log.Warn("pool not used", "pool", name, "reason", oneLine(bad))
	}
	for _, u := range usage {
		if u.Pool == name {
			st.Total, st.Used, st.Conflicted = count(u.Total), count(u.Used), count(u.Conflicted)
			st.Free = count(u.Total - min(u.Used, u.Total))
			set(st, "Ready", metav1.ConditionTrue, "Valid", "")
			set(st, "Exhausted", conditionStatus(st.Free == 0), "Counted", "")
		}
	}
}

// conflicts lists the addresses of a pool that other machines use, the latest.
func (s *statusWriter) conflicts(st *v1alpha1.IPPoolStatus, pool string, list []v1alpha1.AddressConflict) {
	slices.SortStableFunc(list, func(a, b v1alpha1.AddressConflict) int {
		return cmp.Or(b.Since.Compare(a.Since.Time), cmp.Compare(a.Address, b.Address))
	})
	list = slices.CompactFunc(list, func(a, b v1alpha1.AddressConflict) bool { return a.Address == b.Address })
	st.Conflicts = list[:min(len(list), maxConflicts)]
	message := ""
	for _, c := range list[:min(len(list), 3)] {
		message += fmt.Sprintf("%s is used by %s; ", c.Address, c.MAC)
	}
	message = strings.TrimSuffix(message, "; ")
	if len(list) > 3 {
		message += fmt.Sprintf("; and %d more", len(list)-3)
	}
	if len(list) == 0 && meta.FindStatusCondition(st.Conditions, "Conflicted") == nil {
		return
	}
	if set(st, "Conflicted", conditionStatus(len(list) > 0), "Searched", message) && len(list) > 0 {
		s.log.Warn("addresses of a pool are in use by others", "pool", pool, "message", message)
	}
}

// draining sets the condition of a pool that gives nothing any more, or whose
// addresses became fewer: who still has addresses that it no longer gives.
func (s *statusWriter) draining(st *v1alpha1.IPPoolStatus, pool *v1alpha1.IPPool, usage []loadbalancer.Usage) {
	i := slices.IndexFunc(usage, func(u loadbalancer.Usage) bool { return u.Pool == pool.Name })
	if i < 0 {
		return
	}
	u := usage[i]
	switch {
	case pool.Spec.Disabled && len(u.Owners) > 0:
		set(st, "Draining", metav1.ConditionTrue, "InUse", "disabled; addresses are still those of "+names(u.Owners))
	case pool.Spec.Disabled:
		set(st, "Draining", metav1.ConditionFalse, "Drained", "disabled; no Service has an address of it")
	case u.Strays > 0:
		set(st, "Draining", metav1.ConditionTrue, "Shrunk", fmt.Sprintf("%d addresses that it gave are no longer its own; their Services keep them", u.Strays))
	default:
		meta.RemoveStatusCondition(&st.Conditions, "Draining")
	}
}

// names writes the first names of a list.
func names(list []loadbalancer.Name) string {
	const most = 10
	texts := make([]string, 0, most)
	for _, name := range list[:min(len(list), most)] {
		texts = append(texts, name.String())
	}
	if len(list) > most {
		texts = append(texts, fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(texts, ", ")
}

// overlapping sets the condition of a pool that overlaps another, or did.
func (s *statusWriter) overlapping(st *v1alpha1.IPPoolStatus, name string, err error) {
	if err == nil {
		if meta.FindStatusCondition(st.Conditions, "Overlapping") != nil {
			set(st, "Overlapping", metav1.ConditionFalse, "Apart", "")
		}
		return
	}
	if set(st, "Overlapping", metav1.ConditionTrue, "Overlapping", oneLine(err)) {
		s.log.Warn("pool overlaps", "pool", name, "reason", oneLine(err))
	}
}

func conditionStatus(b bool) metav1.ConditionStatus {
	if b {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func set(st *v1alpha1.IPPoolStatus, kind string, status metav1.ConditionStatus, reason, message string) (changed bool) {
	return meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message})
}

func count(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func (s *statusWriter) pool(ctx context.Context, pool *v1alpha1.IPPool, change func(*v1alpha1.IPPoolStatus)) error {
	want := pool.DeepCopy()
	change(&want.Status)
	return s.update(ctx, source.KindIPPool, pool.Status, want.Status, want)
}

// update writes obj's status unless the source shows it already, or it was
// written just now and the source is only late.
func (s *statusWriter) update(ctx context.Context, kind source.Kind, have, want any, obj source.Object) error {
	key := writtenKey{kind, source.KeyOf(obj)}
	if equality.Semantic.DeepEqual(have, want) {
		delete(s.written, key)
		return nil
	}
	last, ok := s.written[key]
	if ok && time.Since(last.at) < repeatAfter && equality.Semantic.DeepEqual(last.status, want) {
		return nil
	}
	if err := s.writer.UpdateStatus(ctx, obj); err != nil {
		if errors.Is(err, source.ErrNotFound) {
			// Gone, or the writer sees it later than the source: look again soon.
			s.log.Info("status of what is not there", "kind", kind, "object", key.key.String())
			s.missed = true
			return nil
		}
		return fmt.Errorf("write status of %s %s: %w", kind, key.key, err)
	}
	s.written[key] = written{want, time.Now()}
	return nil
}

// reasonOf names the kind of a reason, as conditions need it.
func reasonOf(err error) string {
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

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
