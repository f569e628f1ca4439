// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// addresses gives LoadBalancer Services their addresses: it plans with all that
// is known, and writes what the plan says in the plan's order.
type addresses struct {
	store   *source.Store
	class   convert.Class
	records records
	status  *statusWriter
	absent  *absentees
	counted func() []loadbalancer.Usage // of pools for pods and nodes; may be nil
}

func newAddresses(store *source.Store, to access, absent *absentees, class convert.Class, now func() time.Time, log *slog.Logger) *addresses {
	return &addresses{
		store: store, class: class,
		records: newRecords(store, to.writer),
		status:  &statusWriter{store: store, writer: to.writer, events: to.events, now: now, log: log, written: map[writtenKey]written{}},
		absent:  absent,
	}
}

// reconcile brings records and statuses in line, once. It returns whether
// something is to be tried again soon, though nothing changes.
func (a *addresses) reconcile(ctx context.Context, now time.Time) (again bool, err error) {
	a.status.missed = false
	known, errRecords := a.records.list(now)
	if errRecords != nil {
		// Its address may be given to somebody: giving any might give it twice.
		return true, errRecords
	}
	pools, errPools := a.pools()
	in := loadbalancer.Input{Now: now, Pools: pools, Records: known, Taken: a.taken()}
	for svc := range source.All[*corev1.Service](a.store, source.KindService) {
		if a.class.Serves(svc) {
			in.Services = append(in.Services, convert.LoadBalancer(svc))
		}
	}
	in.Services = append(in.Services, a.absent.services(known)...)
	result := loadbalancer.Plan(in)
	errWrite := a.write(ctx, result, known, now)
	if a.counted != nil {
		result.Usage = append(result.Usage, a.counted()...)
	}
	errUsage := a.status.pools(ctx, result.Usage, errPools)
	waiting := slices.ContainsFunc(result.Assignments, func(as loadbalancer.Assignment) bool {
		return errors.Is(as.Reason, loadbalancer.ErrInUse) || errors.Is(as.Reason, loadbalancer.ErrExhausted)
	})
	return waiting || a.status.missed, errors.Join(errWrite, errUsage)
}

// write carries a plan out: records of what is given, then the statuses, then
// records of what is no longer in use. What one write fails for waits, the rest
// goes on.
func (a *addresses) write(ctx context.Context, result loadbalancer.Result, known []loadbalancer.Record, now time.Time) error {
	var errs []error
	missing := map[netip.Addr]bool{} // whose record isn't durable
	for _, record := range result.Put {
		if err := a.records.put(ctx, record, now); err != nil {
			errs = append(errs, err)
			missing[record.Addr] = true
		}
	}
	stale := map[loadbalancer.Name]bool{} // whose status may still name what it no longer has
	for _, as := range result.Assignments {
		if slices.ContainsFunc(as.Addrs, func(addr netip.Addr) bool { return missing[addr] }) {
			stale[as.Service] = true
			continue
		}
		if err := a.status.service(ctx, as); err != nil {
			errs = append(errs, err)
			stale[as.Service] = true
		}
	}
	if err := a.clearOthers(ctx, known, stale); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, a.release(ctx, result, known, stale, now))...)
}

// release writes what is no longer in use, except of Services whose status may
// still name it.
func (a *addresses) release(ctx context.Context, result loadbalancer.Result, known []loadbalancer.Record, stale map[loadbalancer.Name]bool, now time.Time) error {
	before := map[netip.Addr]loadbalancer.Record{}
	for _, record := range known {
		before[record.Addr] = record
	}
	named := func(addr netip.Addr) bool {
		return slices.ContainsFunc(before[addr].Owners, func(n loadbalancer.Name) bool { return stale[n] })
	}
	var errs []error
	for _, record := range result.Release {
		if !named(record.Addr) {
			errs = append(errs, a.records.put(ctx, record, now))
		}
	}
	for _, addr := range result.Forget {
		if !named(addr) {
			errs = append(errs, a.records.remove(ctx, before[addr], now))
		}
	}
	return errors.Join(errs...)
}

// clearOthers takes our addresses out of the statuses of Services that no
// longer get theirs from us: of another type or class now.
func (a *addresses) clearOthers(ctx context.Context, known []loadbalancer.Record, stale map[loadbalancer.Name]bool) error {
	var errs []error
	for _, record := range known {
		if record.State != loadbalancer.Active {
			continue
		}
		for _, owner := range record.Owners {
			svc, ok := source.Get[*corev1.Service](a.store, source.KindService, source.Key(owner))
			if !ok || a.class.Serves(svc) {
				continue
			}
			if err := a.status.clear(ctx, svc, record.Addr); err != nil {
				errs = append(errs, err)
				stale[owner] = true
			}
		}
	}
	return errors.Join(errs...)
}

// pools returns the pools for Services, and what is wrong with the others.
func (a *addresses) pools() ([]loadbalancer.Pool, map[string]error) {
	var pools []loadbalancer.Pool
	bad := map[string]error{}
	for obj := range source.All[*v1alpha1.IPPool](a.store, source.KindIPPool) {
		if obj.Spec.Use != v1alpha1.UseLoadBalancer {
			continue
		}
		pool, err := convert.Pool(obj, a.labelsOf)
		if err != nil {
			bad[obj.Name] = err
			continue
		}
		pools = append(pools, pool)
	}
	return pools, bad
}

func (a *addresses) labelsOf(name loadbalancer.Name) (service, namespace map[string]string) {
	if svc, ok := source.Get[*corev1.Service](a.store, source.KindService, source.Key(name)); ok {
		service = svc.Labels
	}
	if ns, ok := source.Get[*corev1.Namespace](a.store, source.KindNamespace, source.Key{Name: name.Namespace}); ok {
		namespace = ns.Labels
	}
	return service, namespace
}

// taken returns addresses that others have: nodes, Services by externalIPs, and
// machines that were seen on the network.
func (a *addresses) taken() []netip.Addr {
	var taken []netip.Addr
	for obj := range source.All[*corev1.Node](a.store, source.KindNode) {
		node, _ := convert.Node(obj)
		taken = append(append(taken, node.InternalIPs...), node.ExternalIPs...)
	}
	for svc := range source.All[*corev1.Service](a.store, source.KindService) {
		if !a.class.Serves(svc) {
			value, _, _ := convert.Service(svc)
			taken = append(taken, value.ExternalIPs...)
		}
	}
	for pool := range source.All[*v1alpha1.IPPool](a.store, source.KindIPPool) {
		for _, c := range pool.Status.Conflicts {
			if addr, err := netip.ParseAddr(c.Address); err == nil {
				taken = append(taken, addr)
			}
		}
	}
	return append(taken, a.absent.addrs()...)
}
