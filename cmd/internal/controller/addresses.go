// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
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
	status  *status.Writer
	absent  *absentees
	counted func() []loadbalancer.Usage // of pools for pods and nodes; may be nil

	searches *network.Searches
	rests    *network.Rests
	meter    *meter
}

func newAddresses(store *source.Store, to access, absent *absentees, class convert.Class, log *slog.Logger) *addresses {
	return &addresses{
		store: store, class: class,
		records: newRecords(store, to.writer),
		status:  status.New(store, to.writer, to.events, log),
		absent:  absent,

		searches: network.NewSearches(), rests: network.NewRests(), meter: newMeter(),
	}
}

// reconcile brings records and statuses in line, once. It returns whether
// something is to be tried again soon, though nothing changes. Wall is the time
// of day: records have it, nothing is measured by it.
func (a *addresses) reconcile(ctx context.Context, wall time.Time) (again bool, err error) {
	a.status.Begin()
	known, errRecords := a.records.list(time.Now())
	if errRecords != nil {
		// Its address may be given to somebody: giving any might give it twice.
		return true, errRecords
	}
	pools, errPools := a.pools()
	a.status.Net = network.Read(a.store)
	in := loadbalancer.Input{
		Now: wall, Pools: pools, Records: known, Taken: a.taken(),
		Search: a.searches.Finder(a.status.Net, known), Rested: a.rests.Measure(known, wall),
	}
	for svc := range source.All[*corev1.Service](a.store, source.KindService) {
		if a.class.Serves(svc) {
			in.Services = append(in.Services, convert.LoadBalancer(svc))
		}
	}
	in.Services = append(in.Services, a.absent.services(known)...)
	result := loadbalancer.Plan(in)
	errWrite := a.write(ctx, result, known)
	a.tellSearches(result)
	if a.counted != nil {
		result.Usage = append(result.Usage, a.counted()...)
	}
	conflicts := a.conflicts(known)
	errUsage := errors.Join(a.status.Pools(ctx, result.Usage, errPools, conflicts), a.status.Allocations(ctx, conflicts))
	a.meter.planned(result, a.status.Net.Claims())
	waiting := slices.ContainsFunc(result.Assignments, func(as loadbalancer.Assignment) bool {
		return errors.Is(as.Reason, loadbalancer.ErrInUse) || errors.Is(as.Reason, loadbalancer.ErrExhausted) || errors.Is(as.Reason, loadbalancer.ErrSearching)
	})
	return waiting || a.status.Missed(), errors.Join(errWrite, errUsage)
}

// tellSearches tells the owners of addresses what the search for these found.
// Those that asked for one that is in use are told why they wait.
func (a *addresses) tellSearches(result loadbalancer.Result) {
	waits := func(n loadbalancer.Name) bool {
		return slices.ContainsFunc(result.Assignments, func(as loadbalancer.Assignment) bool {
			return as.Service == n && errors.Is(as.Reason, loadbalancer.ErrConflict)
		})
	}
	for _, c := range result.Conflicts {
		text := fmt.Sprintf("another machine on the network uses %s (%s); it is not given", c.Addr, c.By)
		a.status.Warn(slices.DeleteFunc(slices.Clone(c.Owners), waits), "AddressConflict", text)
	}
	for _, record := range result.Put {
		if record.State == loadbalancer.Active && a.searches.Late(record.Addr) {
			text := fmt.Sprintf("no agent searched the network for other machines with %s in time; it is given all the same", record.Addr)
			a.status.Warn(record.Owners, "NotSearched", text)
		}
	}
}

// conflicts returns the addresses of each pool that other machines use: those
// found before they were given, and those claimed since.
func (a *addresses) conflicts(known []loadbalancer.Record) map[string][]v1alpha1.AddressConflict {
	by := map[string][]v1alpha1.AddressConflict{}
	pools := map[netip.Addr]string{}
	for _, r := range known {
		pools[r.Addr] = r.Pool
		if r.State == loadbalancer.Conflicted {
			mac, node := a.status.Net.Finder(r.Addr, r.Since)
			by[r.Pool] = append(by[r.Pool], v1alpha1.AddressConflict{Address: r.Addr.String(), MAC: mac, Node: node, Since: metav1.NewTime(r.Since)})
		}
	}
	for _, c := range a.status.Net.Claims() {
		if pool, ok := pools[c.Addr]; ok {
			by[pool] = append(by[pool], v1alpha1.AddressConflict{Address: c.Addr.String(), MAC: c.MAC, Node: c.Node, Since: metav1.NewTime(c.Since)})
		}
	}
	return by
}

// write carries a plan out: records of what is given, then the statuses, then
// records of what is no longer in use. What one write fails for waits, the rest
// goes on.
func (a *addresses) write(ctx context.Context, result loadbalancer.Result, known []loadbalancer.Record) error {
	var errs []error
	missing := map[netip.Addr]bool{} // whose record isn't durable
	for _, record := range result.Put {
		if err := a.records.put(ctx, record, time.Now()); err != nil {
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
		if err := a.status.Service(ctx, as); err != nil {
			errs = append(errs, err)
			stale[as.Service] = true
		}
	}
	if err := a.clearOthers(ctx, known, stale); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, a.release(ctx, result, known, stale))...)
}

// release writes what is no longer in use, except of Services whose status may
// still name it.
func (a *addresses) release(ctx context.Context, result loadbalancer.Result, known []loadbalancer.Record, stale map[loadbalancer.Name]bool) error {
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
			errs = append(errs, a.records.put(ctx, record, time.Now()))
		}
	}
	for _, addr := range result.Forget {
		if !named(addr) {
			errs = append(errs, a.records.remove(ctx, before[addr], time.Now()))
		}
	}
	return errors.Join(errs...)
}

// clearOthers takes our addresses out of the statuses of Services that no
// longer get theirs from us: of another type or class now.
func (a *addresses) clearOthers(ctx context.Context, known []loadbalancer.Record, stale map[loadbalancer.Name]bool) error {
	var errs []error
	for _, record := range known {
		if record.State != loadbalancer.Active && record.State != loadbalancer.Reserved {
			continue
		}
		for _, owner := range record.Owners {
			svc, ok := source.Get[*corev1.Service](a.store, source.KindService, source.Key(owner))
			if !ok || a.class.Serves(svc) {
				continue
			}
			if err := a.status.Clear(ctx, svc, record.Addr); err != nil {
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

// taken returns addresses that others have, or nobody can have: nodes' and those
// of their networks, and Services' externalIPs.
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
	taken = append(taken, a.status.Net.Taken()...)
	return append(taken, a.absent.addrs()...)
}
