// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// objects is what the parts look at.
func (r *Reconciler) objects() parts.Objects {
	v := r.seen()
	return parts.Objects{Node: r.Config.NodeName, Store: r.store, NICs: v.nics, Entries: v.entries, Computed: v.computed, Known: r.objectsKnown()}
}

// nicHints is what the objects say that tells NICs apart.
func (r *Reconciler) nicHints() nic.Hints {
	r.mu.Lock()
	defer r.mu.Unlock()
	self, _ := r.services.Node(r.Config.NodeName)
	hints := nic.Hints{NodeAddrs: self.InternalIPs, Pools: map[string][]netip.Addr{}}
	for _, p := range source.List[*v1alpha1.IPPool](r.store, source.KindIPPool) {
		if p.Spec.Use != v1alpha1.UseLoadBalancer {
			continue
		}
		hints.Pools[p.Name] = plan.FirstAddrs(p)
	}
	return hints
}

// planInput is what the network is planned from.
func (r *Reconciler) planInput() plan.Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := plan.Input{Self: r.Config.NodeName, NICs: r.nics, Config: r.Config, Tunnel: r.tunnel.IfIndex, Way: netdev.Way, MACs: r.macs}
	for _, n := range r.services.Nodes() {
		node := plan.Node{Name: n.Name, InternalIPs: n.InternalIPs, ExternalIPs: n.ExternalIPs, PodCIDRs: n.PodCIDRs}
		if state, ok := source.Get[*v1alpha1.NodeNetworkState](r.store, source.KindNodeNetworkState, source.Key{Name: n.Name}); ok {
			node.NICs, node.NoTunnel = plan.RemoteNICs(state), !plan.HasTunnel(state)
		}
		if told := r.told[n.Name]; told != nil {
			node.NICs = told
		}
		in.Nodes = append(in.Nodes, node)
	}
	for _, b := range source.List[*v1alpha1.IPBlock](r.store, source.KindIPBlock) {
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		i := slices.IndexFunc(in.Nodes, func(n plan.Node) bool { return n.Name == b.Spec.Node })
		if err == nil && i >= 0 && !slices.Contains(in.Nodes[i].PodCIDRs, cidr) && r.forPods(b) {
			in.Nodes[i].PodCIDRs = append(slices.Clip(in.Nodes[i].PodCIDRs), cidr)
		}
	}
	return in
}

// forPods tells a block of pods' addresses from one of legs' on a switch.
func (r *Reconciler) forPods(b *v1alpha1.IPBlock) bool {
	pool, ok := source.Get[*v1alpha1.IPPool](r.store, source.KindIPPool, source.Key{Name: b.Spec.Pool})
	return !ok || pool.Spec.Use == v1alpha1.UsePod
}

// podRanges are the ranges that this node gives addresses out of: its blocks,
// else those of its Node object. Blocks that are drained are among them: the CNI
// configuration must stay while a pool is drained, and what a pod may have it is
// told at its ADD.
func (r *Reconciler) podRanges() []plan.PodRange {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ranges []plan.PodRange
	for _, b := range source.List[*v1alpha1.IPBlock](r.store, source.KindIPBlock) {
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		if err == nil && b.Spec.Node == r.Config.NodeName && r.forPods(b) {
			ranges = append(ranges, r.blockRange(cidr, b.Spec.Pool))
		}
	}
	if ranges != nil {
		return ranges
	}
	self, _ := r.services.Node(r.Config.NodeName)
	for _, p := range self.PodCIDRs {
		ranges = append(ranges, plan.PodRange{Prefix: p})
	}
	return ranges
}

// blockRange is a block with what its pool keeps out of it.
func (r *Reconciler) blockRange(cidr netip.Prefix, pool string) plan.PodRange {
	out := plan.PodRange{Prefix: cidr, Pool: pool}
	obj, ok := source.Get[*v1alpha1.IPPool](r.store, source.KindIPPool, source.Key{Name: pool})
	if !ok {
		return out
	}
	for _, text := range append([]string{obj.Spec.Gateway}, obj.Spec.Exclude...) {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.Exclude = append(out.Exclude, p)
		} else if addr, err := netip.ParseAddr(text); err == nil {
			out.Exclude = append(out.Exclude, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	if obj.Spec.CoolDown != nil {
		out.CoolDown = obj.Spec.CoolDown.Duration
	}
	return out
}

// podCIDRs are podRanges' prefixes.
func (r *Reconciler) podCIDRs() []netip.Prefix {
	var cidrs []netip.Prefix
	for _, p := range r.podRanges() {
		cidrs = append(cidrs, p.Prefix)
	}
	return cidrs
}

// balance computes what the objects say about Services: all frontends, the
// health-check node ports, and what is wrong.
func (r *Reconciler) balance() (entries []service.Entry, checks []service.HealthCheck, problems map[string]error) {
	ports := plan.PodPorts(r.pods.List())
	r.mu.Lock()
	defer r.mu.Unlock()
	self, ok := r.services.Node(r.Config.NodeName)
	if !ok {
		self.Name = r.Config.NodeName
	}
	roles, addrs := nicRoles(r.Config.Services.NodePortNICs), r.nodePortAddrs()
	entries = r.services.Entries(self.Service(addrs), roles)
	entries = plan.Join(entries, plan.HostPorts(ports, r.Config.NodeName, addrs, roles))
	problems = make(map[string]error)
	for _, p := range r.services.Problems() {
		problems["object "+string(p.Kind)+" "+p.Key.String()] = p.Err
	}
	return entries, r.services.HealthChecks(r.Config.NodeName), problems
}

// nodePortAddrs are the addresses of the NICs; which of them serve a NodePort
// the datapath tells by the NIC that a packet comes in by.
func (r *Reconciler) nodePortAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, n := range r.nics {
		for _, p := range n.Addrs {
			if n.Role != nic.Ignored {
				addrs = append(addrs, p.Addr())
			}
		}
	}
	return addrs
}

func nicRoles(list []config.Role) service.NICRoles {
	var roles service.NICRoles
	for _, role := range list {
		switch role {
		case config.RoleInternal:
			roles |= service.InternalNIC
		case config.RoleExternal:
			roles |= service.ExternalNIC
		}
	}
	return roles
}
