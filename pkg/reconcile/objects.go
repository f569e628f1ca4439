// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

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
		for _, span := range spans(p) {
			hints.Pools[p.Name] = append(hints.Pools[p.Name], span.first)
		}
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
			node.NICs = remoteNICs(state)
		}
		in.Nodes = append(in.Nodes, node)
	}
	for _, b := range source.List[*v1alpha1.IPBlock](r.store, source.KindIPBlock) {
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		i := slices.IndexFunc(in.Nodes, func(n plan.Node) bool { return n.Name == b.Spec.Node })
		if err == nil && i >= 0 && !slices.Contains(in.Nodes[i].PodCIDRs, cidr) {
			in.Nodes[i].PodCIDRs = append(slices.Clip(in.Nodes[i].PodCIDRs), cidr)
		}
	}
	return in
}

// podRanges are the ranges that this node gives addresses out of: its blocks,
// else those of its Node object.
func (r *Reconciler) podRanges() []netip.Prefix {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ranges []netip.Prefix
	for _, b := range source.List[*v1alpha1.IPBlock](r.store, source.KindIPBlock) {
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		if err == nil && b.Spec.Node == r.Config.NodeName && b.Spec.State != v1alpha1.BlockDraining {
			ranges = append(ranges, cidr)
		}
	}
	if ranges == nil {
		self, _ := r.services.Node(r.Config.NodeName)
		ranges = self.PodCIDRs
	}
	return ranges
}

func remoteNICs(state *v1alpha1.NodeNetworkState) []plan.RemoteNIC {
	var nics []plan.RemoteNIC
	for _, n := range state.Status.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || n.Role == nic.Ignored.String() {
			continue
		}
		out := plan.RemoteNIC{MAC: [6]byte(mac), External: strings.Contains(n.Role, nic.External.String()), Carrier: n.Carrier}
		for _, a := range n.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				out.Addrs = append(out.Addrs, p)
			}
		}
		nics = append(nics, out)
	}
	return nics
}

// serviceInput is what the Services' frontends are computed from.
func (r *Reconciler) serviceInput() service.Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	self, ok := r.services.Node(r.Config.NodeName)
	if !ok {
		self.Name = r.Config.NodeName
	}
	return r.services.Input(self.Service(r.nodePortAddrs()), nicRoles(r.Config.Services.NodePortNICs))
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

// addressInput is what the owners of LoadBalancer addresses are chosen from.
func (r *Reconciler) addressInput(services service.Input) plan.AddressInput {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := plan.AddressInput{Self: r.Config.NodeName, NICs: r.nics, Members: r.Members}
	for _, s := range services.Services {
		if len(s.LoadBalancerIPs) > 0 {
			in.Services = append(in.Services, r.balanced(s, services.Endpoints[s.ID()]))
		}
	}
	for _, p := range source.List[*v1alpha1.IPPool](r.store, source.KindIPPool) {
		if p.Spec.Use == v1alpha1.UseLoadBalancer {
			in.Pools = append(in.Pools, addressPool(p))
		}
	}
	in.Pools = append(in.Pools, r.allocated())
	for _, obj := range source.List[*corev1.Node](r.store, source.KindNode) {
		in.Nodes = append(in.Nodes, r.announcer(obj))
	}
	return in
}

func (r *Reconciler) balanced(s service.Service, endpoints []service.Endpoint) plan.Balanced {
	b := plan.Balanced{Name: s.ID().String(), Addrs: s.LoadBalancerIPs, Local: s.ExternalLocal}
	if s.ExternalLocal {
		for i := range endpoints {
			if e := &endpoints[i]; e.Ready && !slices.Contains(b.Nodes, e.Node) {
				b.Nodes = append(b.Nodes, e.Node)
			}
		}
	}
	if obj, ok := source.Get[*corev1.Service](r.store, source.KindService, source.Key{Namespace: s.Namespace, Name: s.Name}); ok {
		b.Preferred = fields(obj.Annotations[v1alpha1.AnnotationPreferredNodes])
		b.NICs = fields(obj.Annotations[v1alpha1.AnnotationAnnounceNICs])
	}
	return b
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

// allocated stands for the addresses that were given out of pools which are no
// more: they stay answered for while Services have them.
func (r *Reconciler) allocated() plan.Pool {
	addrs := make(map[netip.Addr]bool)
	for _, a := range source.List[*v1alpha1.IPAllocation](r.store, source.KindIPAllocation) {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil && a.Spec.State == v1alpha1.AllocationActive {
			addrs[addr] = true
		}
	}
	return plan.Pool{Contains: func(a netip.Addr) bool { return addrs[a] }}
}

func addressPool(p *v1alpha1.IPPool) plan.Pool {
	list := spans(p)
	pool := plan.Pool{Name: p.Name, Contains: func(a netip.Addr) bool {
		return slices.ContainsFunc(list, func(s span) bool { return s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0 })
	}}
	if p.Spec.NodeSelector != nil {
		pool.Selects = p.Spec.NodeSelector.Matches
	}
	return pool
}

// announcer is what a node's object and its report say that decides whether it
// may announce. This node's own NICs are looked at directly.
func (r *Reconciler) announcer(obj *corev1.Node) announce.Node {
	_, excluded := obj.Labels[corev1.LabelNodeExcludeBalancers]
	n := announce.Node{Name: obj.Name, Excluded: excluded, Labels: obj.Labels}
	if obj.Name == r.Config.NodeName {
		n.Subnets = []netip.Prefix{}
		for _, own := range r.nics {
			if own.Role&nic.External != 0 && own.Carrier {
				n.Subnets = append(n.Subnets, own.Addrs...)
			}
		}
		return n
	}
	state, ok := source.Get[*v1alpha1.NodeNetworkState](r.store, source.KindNodeNetworkState, source.Key{Name: obj.Name})
	if !ok {
		return n
	}
	n.Subnets = []netip.Prefix{}
	for _, other := range remoteNICs(state) {
		if other.External && other.Carrier {
			n.Subnets = append(n.Subnets, other.Addrs...)
		}
	}
	return n
}

// span is the addresses from first to last.
type span struct{ first, last netip.Addr }

// spans are a pool's addresses; what can't be read is the source's to report.
func spans(p *v1alpha1.IPPool) []span {
	var list []span
	for _, c := range p.Spec.CIDRs {
		if cidr, err := netip.ParsePrefix(c); err == nil {
			list = append(list, span{cidr.Masked().Addr(), lastOf(cidr)})
		}
	}
	for _, rg := range p.Spec.Ranges {
		first, err1 := netip.ParseAddr(rg.First)
		last, err2 := netip.ParseAddr(rg.Last)
		if err1 == nil && err2 == nil {
			list = append(list, span{first, last})
		}
	}
	return list
}

func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
