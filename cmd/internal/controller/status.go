// SPDX-License-Identifier: Apache-2.0

package controller

import (
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

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// conditionAddress is the condition of a Service that tells how it fared.
const conditionAddress = v1alpha1.Group + "/Address"

// repeatAfter is when a status that the source doesn't show is written again.
const repeatAfter = 5 * time.Second

// statusWriter writes what Services and pools show of themselves, where it
// differs from what they show already.
type statusWriter struct {
	store   *source.Store
	writer  source.Writer
	events  recorder
	now     func() time.Time
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
	condition := metav1.Condition{Type: conditionAddress, Status: metav1.ConditionTrue, Reason: "Assigned"}
	if as.Reason != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonOf(as.Reason), oneLine(as.Reason)
	}
	if meta.SetStatusCondition(&want.Status.Conditions, condition) && as.Reason != nil {
		s.log.Warn("no address as wished", "service", key.String(), "reason", condition.Message)
		s.events.Event(svc, corev1.EventTypeWarning, condition.Reason, condition.Message)
	}
	if !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, want.Status.LoadBalancer.Ingress, sameIP) {
		s.log.Info("addresses assigned", "service", key.String(), "addresses", as.Addrs)
		s.events.Event(svc, corev1.EventTypeNormal, "AddressesAssigned", fmt.Sprint(as.Addrs))
	}
	return s.update(ctx, source.KindService, svc.Status, want.Status, want)
}

func sameIP(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }

// clear takes one address out of a Service's status.
func (s *statusWriter) clear(ctx context.Context, svc *corev1.Service, addr netip.Addr) error {
	want := svc.DeepCopy()
	want.Status.LoadBalancer.Ingress = slices.DeleteFunc(want.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.IP == addr.String()
	})
	meta.RemoveStatusCondition(&want.Status.Conditions, conditionAddress)
	return s.update(ctx, source.KindService, svc.Status, want.Status, want)
}

// pools writes the counts of the pools that give addresses to Services, what is
// wrong with the others, and of pools of any use which overlap.
func (s *statusWriter) pools(ctx context.Context, usage []loadbalancer.Usage, bad map[string]error) error {
	pools := source.List[*v1alpha1.IPPool](s.store, source.KindIPPool)
	overlapping := overlaps(pools)
	var errs []error
	for _, pool := range pools {
		errs = append(errs, s.pool(ctx, pool, func(st *v1alpha1.IPPoolStatus) {
			s.describe(st, pool.Name, usage, bad[pool.Name])
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
	if ok && s.now().Sub(last.at) < repeatAfter && equality.Semantic.DeepEqual(last.status, want) {
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
	s.written[key] = written{want, s.now()}
	return nil
}

// reasonOf names the kind of a reason, as conditions need it.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, loadbalancer.ErrExhausted):
		return "PoolExhausted"
	case errors.Is(err, loadbalancer.ErrInUse):
		return "AddressInUse"
	case errors.Is(err, loadbalancer.ErrNoPool):
		return "NoPool"
	}
	return "InvalidRequest"
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
