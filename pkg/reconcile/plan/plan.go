// SPDX-License-Identifier: Apache-2.0

// Package plan computes what a node's network must be from what is known of the
// cluster and of the node. It changes nothing and asks nobody: the same input
// gives the same plan.
package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nat"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
)

// Node is a node of the cluster.
type Node struct {
	Name        string
	InternalIPs []netip.Addr
	ExternalIPs []netip.Addr
	PodCIDRs    []netip.Prefix
	NICs        []RemoteNIC // as the node itself reports them; none if it doesn't
	NoTunnel    bool        // it reports that it has no tunnel, so far
}

// Input is all that a plan is made from.
type Input struct {
	Self   string // this node's name
	Nodes  []Node // all, this one included, sorted by name
	NICs   []nic.NIC
	Config config.Config
	Tunnel int                          // index of the VXLAN device, 0 while there is none
	Way    func(netip.Addr) (link int)  // the link that the kernel's route to an address leads out of; 0 if none
	MACs   map[netdev.Neighbour][6]byte // neighbours resolved so far
}

// Network is the plan.
type Network struct {
	Underlay   int  // index of the NIC that nodes are reached by; 0 if there is none
	NeedTunnel bool // a VXLAN device is wanted
	TunnelMTU  int
	// TunnelAddrs are this node's own on the tunnel, by which others test it: the
	// first of each of its pod ranges, which no pod gets.
	TunnelAddrs []netip.Addr
	PodMTU      int

	KernelRoutes []netdev.Route
	Fixed        map[netdev.Neighbour][6]byte // neighbours with a MAC address that nobody has to be asked for
	Neighbours   []netdev.Neighbour           // to be resolved
	Routes       []datapath.Route
	Peers        []datapath.Peer
	NAT          nat.Config
	Problems     map[string]string // by node
}

// ServiceGateway is the next hop, on the underlay NIC, of the host's packets to
// Services that no socket hook translated: it only has to bring them to the
// programs on the NIC.
func ServiceGateway(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.MustParseAddr("fe80::7062:1")
}

// ServiceGatewayMAC is the MAC address of ServiceGateway; no machine has it.
func ServiceGatewayMAC() [6]byte { return [6]byte{0x02, 'p', 'b', 0x50, 0x42, 0x02} }

// overhead of the tunnel by the family of the outer header.
const (
	overhead4 = 50
	overhead6 = 70
)

// Build makes the plan.
func Build(in Input) Network {
	b := builder{in: in, net: Network{Fixed: map[netdev.Neighbour][6]byte{}, Problems: map[string]string{}}}
	b.self = Node{Name: in.Self}
	if i := slices.IndexFunc(in.Nodes, func(n Node) bool { return n.Name == in.Self }); i >= 0 {
		b.self = in.Nodes[i]
	}
	b.underlay()
	b.local()
	for _, n := range in.Nodes {
		if n.Name != in.Self {
			b.remote(n)
		}
	}
	b.mtus()
	b.nat()
	return b.net
}

type builder struct {
	in    Input
	net   Network
	self  Node
	under nic.NIC
	outer int // overhead of the tunnel, the largest in use
}

// underlay picks the NIC for what is between nodes: the one with the
// InternalIP, else an internal one, else an external one.
func (b *builder) underlay() {
	best := 0
	for _, n := range b.in.NICs {
		score := 0
		switch {
		case n.Role == nic.Ignored:
			continue
		case slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return slices.Contains(b.self.InternalIPs, p.Addr()) }):
			score = 3
		case n.Role&nic.Internal != 0:
			score = 2
		default:
			score = 1
		}
		if score > best {
			best, b.under = score, n
		}
	}
	b.net.Underlay = b.under.Index
}

// local plans for what is this node's own and what concerns all nodes.
func (b *builder) local() {
	for _, p := range b.self.PodCIDRs {
		b.route(datapath.Route{Prefix: p, Kind: datapath.RouteLocalPods, Node: b.self.Name})
		addr, ok := TunnelAddr(p)
		if !ok {
			continue
		}
		b.net.TunnelAddrs = append(b.net.TunnelAddrs, addr)
		if b.in.Tunnel != 0 {
			b.route(datapath.Route{Prefix: host(addr), Kind: datapath.RouteSelf, Node: b.self.Name})
		}
	}
	for _, p := range b.in.Config.PodCIDRs {
		b.route(datapath.Route{Prefix: p, Kind: datapath.RoutePods})
	}
	for _, p := range b.in.Config.Masquerade.Exclude {
		b.route(datapath.Route{Prefix: p, Kind: datapath.RouteUnmasquerade})
	}
	for _, p := range b.in.Config.ServiceCIDRs {
		b.route(datapath.Route{Prefix: p, Kind: datapath.RouteService})
		if src := b.source(p.Addr().Is4(), b.under); b.under.Index != 0 && src.IsValid() {
			gateway := ServiceGateway(p.Addr().Is4())
			b.kernel(netdev.Route{Dst: p, Via: gateway, Link: b.under.Index, Src: src})
			b.net.Fixed[netdev.Neighbour{Link: b.under.Index, Addr: gateway}] = ServiceGatewayMAC()
		}
	}
}

// route adds one for the datapath. The first of a prefix counts.
func (b *builder) route(r datapath.Route) {
	if !slices.ContainsFunc(b.net.Routes, func(o datapath.Route) bool { return o.Prefix == r.Prefix }) {
		b.net.Routes = append(b.net.Routes, r)
	}
}

func (b *builder) kernel(r netdev.Route) { b.net.KernelRoutes = append(b.net.KernelRoutes, r) }

// remote plans the way to another node, its addresses and its pods.
func (b *builder) remote(n Node) {
	for _, addr := range slices.Concat(n.InternalIPs, n.ExternalIPs) {
		b.address(n, addr)
	}
	b.reported(n)
	for _, p := range n.PodCIDRs {
		b.pods(n, p)
	}
}

// address plans for one of the node's own addresses.
func (b *builder) address(n Node, addr netip.Addr) {
	r := datapath.Route{Prefix: host(addr), Kind: datapath.RouteCluster, Node: n.Name}
	if on, ok := b.onLink(addr); ok {
		r.NextHop, r.IfIndex = addr, on.Index
		b.peer(n, addr, on)
	} else if slices.Contains(n.InternalIPs, addr) && b.in.Config.Routing.Mode != config.RoutingNative {
		r.NextHop, r.IfIndex = b.tunnelTo(n), b.in.Tunnel
	}
	b.route(r)
}

// peer notes that frames of the neighbour's are the node's.
func (b *builder) peer(n Node, addr netip.Addr, on nic.NIC) {
	neighbour := netdev.Neighbour{Link: on.Index, Addr: addr}
	b.net.Neighbours = append(b.net.Neighbours, neighbour)
	if mac, ok := b.in.MACs[neighbour]; ok {
		b.addPeer(datapath.Peer{Node: n.Name, IfIndex: on.Index, MAC: mac, Addr: addr})
	}
}

func (b *builder) addPeer(p datapath.Peer) {
	if !slices.Contains(b.net.Peers, p) {
		b.net.Peers = append(b.net.Peers, p)
	}
}

// reported takes the node's own report of its NICs, which names those on
// networks where it has no address in its Node object. These addresses are the
// cluster's, but the way to them is the stack's, with the node's own address.
func (b *builder) reported(n Node) {
	for _, r := range n.NICs {
		for _, p := range r.Addrs {
			b.route(datapath.Route{Prefix: host(p.Addr()), Kind: datapath.RouteCluster, Node: n.Name})
			if on, ok := b.onLink(p.Addr()); ok {
				b.addPeer(datapath.Peer{Node: n.Name, IfIndex: on.Index, MAC: r.MAC, Addr: p.Addr()})
			}
		}
	}
}

// TunnelAddr is the address on its tunnel of the node that has this pod range, if
// the range has one that is no pod's.
func TunnelAddr(p netip.Prefix) (netip.Addr, bool) {
	return p.Masked().Addr(), p.Addr().BitLen()-p.Bits() >= 2
}

// pods plans the way to one of the node's pod ranges: natively where the node
// has an address of that family on a network of ours, else by the tunnel. Where
// the tunnel is wanted everywhere, a node that has none yet is spoken to natively
// until it has: nodes change their mode one after the other.
func (b *builder) pods(n Node, p netip.Prefix) {
	is4 := p.Addr().Is4()
	if b.in.Config.Routing.Mode != config.RoutingVXLAN || n.NoTunnel {
		for _, addr := range n.InternalIPs {
			if on, ok := b.onLink(addr); ok && addr.Is4() == is4 {
				b.route(datapath.Route{Prefix: p, Kind: datapath.RouteNative, Node: n.Name, NextHop: addr, IfIndex: on.Index, MTU: on.MTU})
				b.kernel(netdev.Route{Dst: p, Via: addr, Link: on.Index, Src: b.source(is4, on)})
				return
			}
		}
	}
	if b.in.Config.Routing.Mode == config.RoutingNative {
		b.net.Problems[n.Name] = fmt.Sprintf("pods %s: node has no address of that family on a network of ours, "+
			"and routing.mode is native: the network must know the way", p)
		return
	}
	hop := b.tunnelTo(n)
	if !hop.IsValid() {
		b.net.Problems[n.Name] = fmt.Sprintf("pods %s: node has no InternalIP to send to", p)
		return
	}
	if b.in.Tunnel == 0 {
		return // planned again once the device is there
	}
	b.route(datapath.Route{Prefix: p, Kind: datapath.RouteTunnel, Node: n.Name, NextHop: hop, IfIndex: b.in.Tunnel, MTU: b.tunnelMTU(hop)})
	b.kernel(netdev.Route{Dst: p, Link: b.in.Tunnel, Src: b.source(is4, b.under), MTU: b.tunnelMTU(hop)})
}

// tunnelTo returns the address that tunnel packets to the node go to, and plans
// for a tunnel: an IPv4 address where both have one.
func (b *builder) tunnelTo(n Node) netip.Addr {
	hop := netip.Addr{}
	for _, addr := range n.InternalIPs {
		if b.source(addr.Is4(), b.under).IsValid() && (!hop.IsValid() || addr.Is4()) {
			hop = addr
		}
	}
	if !hop.IsValid() {
		return hop
	}
	b.net.NeedTunnel = true
	b.outer = max(b.outer, overheadOf(hop))
	if _, ok := b.onLink(hop); !ok && b.in.Way != nil {
		if link := b.in.Way(hop); link != 0 {
			b.addPeer(datapath.Peer{Node: n.Name, IfIndex: link, Addr: hop})
		}
	}
	return hop
}

// onLink returns the NIC on whose subnet addr is, an internal one first.
func (b *builder) onLink(addr netip.Addr) (nic.NIC, bool) {
	for _, role := range []nic.Role{nic.Internal, nic.External} {
		for _, n := range b.in.NICs {
			if n.Role&role != 0 && n.OnSubnet(addr) {
				return n, true
			}
		}
	}
	return nic.NIC{}, false
}

// source is the node's address for packets out of a NIC: the InternalIP if the
// NIC has it, else its first of the family; by the tunnel it is the InternalIP.
func (b *builder) source(is4 bool, on nic.NIC) netip.Addr {
	var first netip.Addr
	for _, p := range on.Addrs {
		if p.Addr().Is4() != is4 {
			continue
		}
		if slices.Contains(b.self.InternalIPs, p.Addr()) {
			return p.Addr()
		}
		if !first.IsValid() {
			first = p.Addr()
		}
	}
	return first
}

func (b *builder) tunnelMTU(hop netip.Addr) int { return b.mtu() - overheadOf(hop) }

// mtu is the largest packet between nodes.
func (b *builder) mtu() int {
	switch {
	case b.in.Config.Routing.MTU != 0:
		return b.in.Config.Routing.MTU
	case b.under.MTU != 0:
		return b.under.MTU
	}
	return 1500
}

// mtus sets what pods and the tunnel get. Where only some nodes are behind the
// tunnel, pods keep the full size and the routes tell.
func (b *builder) mtus() {
	if b.in.Config.Routing.Mode == config.RoutingVXLAN {
		b.net.NeedTunnel = true
		b.outer = max(b.outer, overhead4)
	}
	b.net.TunnelMTU = b.mtu() - max(b.outer, overhead4)
	b.net.PodMTU = b.mtu()
	if b.in.Config.Routing.Mode == config.RoutingVXLAN {
		b.net.PodMTU = b.net.TunnelMTU
	}
	if b.in.Config.CNI.MTU != 0 {
		b.net.PodMTU = b.in.Config.CNI.MTU
	}
}

// nat plans the masquerade: pods' own addresses are seen by pods, Services and
// nodes, and where configured. Tunnel packets may come in by our NICs, and by
// whatever else leads to a node.
func (b *builder) nat() {
	c := b.in.Config
	b.net.NAT = nat.Config{Masquerade: *c.Masquerade.Enabled, TunnelPort: c.Routing.VXLAN.Port, NodePorts: [2]uint16{30000, 32767}}
	b.net.NAT.Pods = slices.Concat(c.PodCIDRs, b.self.PodCIDRs)
	b.net.NAT.Exclude = slices.Concat(c.ServiceCIDRs, c.Masquerade.Exclude)
	for _, n := range b.in.Nodes {
		b.net.NAT.Pods = append(b.net.NAT.Pods, n.PodCIDRs...)
		for _, addr := range slices.Concat(n.InternalIPs, n.ExternalIPs) {
			b.net.NAT.Exclude = append(b.net.NAT.Exclude, host(addr))
		}
	}
	for _, n := range b.in.NICs {
		if n.Role == nic.Ignored {
			continue
		}
		b.net.NAT.Links = append(b.net.NAT.Links, n.Index)
		var addrs []netip.Addr
		for _, is4 := range []bool{true, false} {
			if src := b.source(is4, n); src.IsValid() {
				addrs = append(addrs, src)
			}
		}
		if len(addrs) > 0 {
			b.net.NAT.NICs = append(b.net.NAT.NICs, nat.NIC{Index: n.Index, Addrs: addrs})
		}
	}
	if b.net.NeedTunnel || b.in.Tunnel != 0 {
		b.net.NAT.TunnelLinks = slices.Clone(b.net.NAT.Links)
		for _, p := range b.net.Peers {
			if !slices.Contains(b.net.NAT.TunnelLinks, p.IfIndex) {
				b.net.NAT.TunnelLinks = append(b.net.NAT.TunnelLinks, p.IfIndex)
			}
		}
	}
}

func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func overheadOf(hop netip.Addr) int {
	if hop.Is4() {
		return overhead4
	}
	return overhead6
}
