// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// maxConflicts is how many conflicts a pool's status has.
const maxConflicts = 64

// Pools writes the counts of the pools that give addresses to Services, what is
// wrong with the others, and of pools of any use which overlap.
func (w *Writer) Pools(ctx context.Context, usage []loadbalancer.Usage, bad map[string]error, conflicts map[string][]v1alpha1.AddressConflict) error {
	pools := source.List[*v1alpha1.IPPool](w.store, source.KindIPPool)
	overlapping := overlaps(pools)
	var errs []error
	for _, pool := range pools {
		errs = append(errs, w.pool(ctx, pool, func(st *v1alpha1.IPPoolStatus) {
			w.describe(st, pool.Name, usage, bad[pool.Name])
			if pool.Spec.Use == v1alpha1.UseLoadBalancer {
				w.conflicts(st, pool.Name, conflicts[pool.Name])
				w.draining(st, pool, usage)
			}
			w.overlapping(st, pool.Name, overlapping[pool.Name])
		}))
	}
	return errors.Join(errs...)
}

// describe sets what is known of a pool for Services; others it leaves alone.
func (w *Writer) describe(st *v1alpha1.IPPoolStatus, name string, usage []loadbalancer.Usage, bad error) {
	if bad != nil && set(st, "Ready", metav1.ConditionFalse, "Invalid", OneLine(bad)) {
		w.log.Warn("pool not used", "pool", name, "reason", OneLine(bad))
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
func (w *Writer) conflicts(st *v1alpha1.IPPoolStatus, pool string, list []v1alpha1.AddressConflict) {
	slices.SortStableFunc(list, byTime)
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
		w.log.Warn("addresses of a pool are in use by others", "pool", pool, "message", message)
	}
}

// draining sets the condition of a pool that gives nothing any more, or whose
// addresses became fewer: who still has addresses that it no longer gives.
func (w *Writer) draining(st *v1alpha1.IPPoolStatus, pool *v1alpha1.IPPool, usage []loadbalancer.Usage) {
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

// overlapping sets the condition of a pool that overlaps another, or did.
func (w *Writer) overlapping(st *v1alpha1.IPPoolStatus, name string, err error) {
	if err == nil {
		if meta.FindStatusCondition(st.Conditions, "Overlapping") != nil {
			set(st, "Overlapping", metav1.ConditionFalse, "Apart", "")
		}
		return
	}
	if set(st, "Overlapping", metav1.ConditionTrue, "Overlapping", OneLine(err)) {
		w.log.Warn("pool overlaps", "pool", name, "reason", OneLine(err))
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

func (w *Writer) pool(ctx context.Context, pool *v1alpha1.IPPool, change func(*v1alpha1.IPPoolStatus)) error {
	want := pool.DeepCopy()
	change(&want.Status)
	return w.Update(ctx, source.KindIPPool, pool.Status, want.Status, want)
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

// byTime sorts conflicts, the latest first.
func byTime(a, b v1alpha1.AddressConflict) int {
	return cmp.Or(b.Since.Compare(a.Since.Time), cmp.Compare(a.Address, b.Address))
}
