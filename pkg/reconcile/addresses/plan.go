// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

type nodeState = heartbeat.NIC

// choice is who should have an address, as last judged.
type choice struct {
	announce.Choice
	link int
	nic  string
}

// sync takes in what the objects say.
func (a *Addresses) sync(_ context.Context, v parts.Objects) error {
	var nodes []announce.Node
	var members []heartbeat.Member
	macs := map[[6]byte]bool{}
	for _, obj := range source.List[*corev1.Node](v.Store, source.KindNode) {
		n, remote := node(v, obj)
		nodes = append(nodes, n)
		for _, r := range remote {
			macs[r.MAC] = true
		}
		if obj.Name != v.Node {
			members = append(members, heartbeat.Member{Name: obj.Name, Addrs: addrsOf(obj, remote)})
		}
	}
	roles := map[int]nic.Role{}
	for _, n := range v.NICs {
		roles[n.Index] = n.Role
	}
	wishes := wishes(v)
	a.mu.Lock()
	moved := a.roles == nil || !maps.Equal(roles, a.roles)
	a.nodes, a.wishes, a.roles, a.macs = nodes, wishes, roles, macs
	a.mu.Unlock()
	if v.Known || len(members) > 0 {
		a.Heartbeat.SetMembers(members)
	}
	if moved && a.relinkNow() != nil {
		a.Relink() // it says what is wrong, and tries again
	}
	if !v.Known || !v.Computed {
		return nil
	}
	a.mu.Lock()
	a.known = true // with the NICs: else all that is held would seem to have none
	a.mu.Unlock()
	a.Keeper.Wake()
	return a.syncGroups(v.NICs, wishes)
}

// node is what a node's object and report say that decides whether it may
// announce; the node itself tells what is newer.
func node(v parts.Objects, obj *corev1.Node) (announce.Node, []plan.RemoteNIC) {
	_, excluded := obj.Labels[corev1.LabelNodeExcludeBalancers]
	n := announce.Node{Name: obj.Name, Excluded: excluded, Labels: obj.Labels}
	state, ok := source.Get[*v1alpha1.NodeNetworkState](v.Store, source.KindNodeNetworkState, source.Key{Name: obj.Name})
	if !ok {
		return n, nil
	}
	n.Subnets = []netip.Prefix{}
	remote := plan.RemoteNICs(state)
	for _, r := range remote {
		if r.External && r.Carrier {
			n.Subnets = append(n.Subnets, r.Addrs...)
		}
	}
	return n, remote
}

// addrsOf are a node's addresses, by its object and by its report.
func addrsOf(obj *corev1.Node, remote []plan.RemoteNIC) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range obj.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) {
			addrs = append(addrs, addr)
		}
	}
	for _, r := range remote {
		for _, p := range r.Addrs {
			if !slices.Contains(addrs, p.Addr()) {
				addrs = append(addrs, p.Addr())
			}
		}
	}
	return addrs
}

// syncGroups joins the multicast groups in which IPv6 neighbours ask, for all
// addresses that this node could come to have: no takeover waits for it.
func (a *Addresses) syncGroups(nics []nic.NIC, wishes []plan.Wish) error {
	byLink := map[int][]netip.Addr{}
	for i := range wishes {
		if on, ok := wishes[i].NIC(nics); ok {
			byLink[on.Index] = append(byLink[on.Index], wishes[i].Addr)
		}
	}
	var errs []error
	for _, n := range nics {
		if !n.Carrier {
			delete(a.groups, n.Index) // what is left of them is looked at when it is back
			continue
		}
		had, known := a.groups[n.Index]
		addrs := byLink[n.Index]
		if known && slices.Equal(had, addrs) || !known && n.Role&nic.External == 0 && len(addrs) == 0 {
			continue
		}
		if err := netdev.SyncGroups(n.Index, addrs); err != nil {
			errs = append(errs, err)
			continue
		}
		a.groups[n.Index] = addrs
	}
	return errors.Join(errs...)
}

// plan is the keeper's: for each address who can have it, and who should.
func (a *Addresses) plan(standings map[string]holder.Standing) []holder.Want {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known {
		return nil
	}
	own := standings[a.Node]
	working := slices.DeleteFunc(slices.Clone(a.nics), func(n nic.NIC) bool { return own.NICs[n.Name] == nil })
	wants := make([]holder.Want, 0, len(a.wishes))
	choices := make(map[netip.Addr]choice, len(a.wishes))
	for i := range a.wishes {
		w := &a.wishes[i]
		nodes := slices.Clone(a.nodes)
		for i := range nodes {
			if st := standings[nodes[i].Name]; st.Told {
				nodes[i].Subnets = st.On(w.NICs)
			}
		}
		steady := holder.Steady(standings)
		best := announce.Choose(w.Request, nodes, steady)
		want := holder.Want{Addr: w.Addr, Order: announce.Order(w.Request, nodes, holder.Alive(standings)), Best: steady.Best(best)}
		c := choice{Choice: best}
		if on, ok := w.NIC(working); ok {
			want.Link = on.Index
			c.link, c.nic = on.Index, on.Name
		}
		wants, choices[w.Addr] = append(wants, want), c
	}
	a.choices, a.shown = choices, a.wishes
	return wants
}

// wishes are the addresses that must be answered for.
func wishes(v parts.Objects) []plan.Wish {
	var pools []plan.Pool
	for _, p := range source.List[*v1alpha1.IPPool](v.Store, source.KindIPPool) {
		if p.Spec.Use == v1alpha1.UseLoadBalancer {
			pools = append(pools, plan.AddressPool(p))
		}
	}
	active, held := allocated(v)
	pools = append(pools, plan.Pool{Contains: func(addr netip.Addr) bool { return active[addr] }})
	all := plan.Wishes(balanced(v), pools)
	return slices.DeleteFunc(all, func(w plan.Wish) bool { return held[w.Addr] })
}

// allocated are the addresses whose records let them be answered for, and those
// whose records don't yet, or no longer. The first stay answered for though the
// pool that they were given out of is no more.
func allocated(v parts.Objects) (active, held map[netip.Addr]bool) {
	active, held = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for r := range source.All[*v1alpha1.IPAllocation](v.Store, source.KindIPAllocation) {
		addr, err := netip.ParseAddr(r.Spec.Address)
		if err != nil {
			continue
		}
		if r.Spec.State == v1alpha1.AllocationActive || r.Spec.State == "" {
			active[addr] = true
		} else {
			held[addr] = true
		}
	}
	return active, held
}

// balanced collects the Services with LoadBalancer addresses.
func balanced(v parts.Objects) []plan.Balanced {
	byName := make(map[service.Name]*plan.Balanced)
	for i := range v.Entries {
		e := &v.Entries[i]
		if e.Kind != service.LoadBalancer || e.Frontend.Scope != service.Cluster {
			continue
		}
		name := service.Name{Namespace: e.Port.Namespace, Name: e.Port.Name}
		b := byName[name]
		if b == nil {
			b = &plan.Balanced{Name: name.String()}
			annotated(v, name, b)
			byName[name] = b
		}
		if !slices.Contains(b.Addrs, e.Frontend.IP) {
			b.Addrs = append(b.Addrs, e.Frontend.IP)
		}
	}
	endpoints(v, byName)
	list := make([]plan.Balanced, 0, len(byName))
	for _, name := range slices.SortedFunc(maps.Keys(byName), func(a, b service.Name) int { return strings.Compare(a.String(), b.String()) }) {
		list = append(list, *byName[name])
	}
	return list
}

// endpoints adds the nodes with endpoints to the Services whose packets stay on the
// node that they come to: ready ones, or if there are none such that end and still
// serve. The frontends' backends won't do: they are those
// that this node prefers, and all nodes have to come to the same.
func endpoints(v parts.Objects, byName map[service.Name]*plan.Balanced) {
	ending := map[*plan.Balanced][]string{}
	add := func(list []string, node *string) []string {
		if node == nil || slices.Contains(list, *node) {
			return list
		}
		return append(list, *node)
	}
	for slice := range source.All[*discoveryv1.EndpointSlice](v.Store, source.KindEndpointSlice) {
		b := byName[service.Name{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}]
		if b == nil || !b.Local {
			continue
		}
		for _, e := range slice.Endpoints {
			if c := e.Conditions; c.Ready == nil || *c.Ready {
				b.Nodes = add(b.Nodes, e.NodeName)
			} else if c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating {
				ending[b] = add(ending[b], e.NodeName)
			}
		}
	}
	for b, nodes := range ending {
		if b.Nodes == nil {
			b.Nodes = nodes
		}
	}
}

// annotated adds what only the object says.
func annotated(v parts.Objects, name service.Name, b *plan.Balanced) {
	obj, ok := source.Get[*corev1.Service](v.Store, source.KindService, source.Key(name))
	if !ok {
		return
	}
	b.Local = obj.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	b.Preferred = fields(obj.Annotations[v1alpha1.AnnotationPreferredNodes])
	b.NICs = fields(obj.Annotations[v1alpha1.AnnotationAnnounceNICs])
}

// fields splits a list separated by commas.
func fields(s string) []string {
	var out []string
	for f := range strings.SplitSeq(s, ",") {
		if f = strings.TrimSpace(f); f != "" {
			out = append(out, f)
		}
	}
	return out
}
