// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// State is a cluster, as one of its nodes has to serve it.
type State struct {
	Node     string // the node's name
	Nodes    []*corev1.Node
	Suspect  map[string]bool // nodes that are likely dead
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice

	NICs          []NIC          // of the node
	PodRanges     []netip.Prefix // of all nodes
	ServiceRanges []netip.Prefix // of ClusterIPs
	Pools         []netip.Prefix // of LoadBalancer addresses

	frontends []Frontend // as Frontends returned them first
}

// NIC is a network interface of the node.
type NIC struct {
	External bool // role external, else internal
	Addrs    []netip.Addr
}

// From is where a packet comes from.
type From uint8

const (
	// Socket is a connect() or sendmsg() of a process in a pod or on the node.
	Socket From = iota
	// Pod is a packet out of a pod of the node.
	Pod
	// Host is a packet of the node itself.
	Host
	// Client is a packet that came in by a NIC, from outside the cluster.
	Client
	// Peer is a packet of another node, or of a pod there, that came in by a NIC.
	Peer
)

// String names it.
func (f From) String() string { return [...]string{"socket", "pod", "host", "client", "peer"}[f] }

// Packet is the first of a flow.
type Packet struct {
	From     From
	External bool // Client, Peer: came in by a NIC of role external
	Src, Dst netip.AddrPort
	Protocol corev1.Protocol
}

// Verdict is what becomes of a packet.
type Verdict uint8

const (
	// Pass leaves the packet as it is, on its way.
	Pass Verdict = iota
	// Forward sends it to one of the backends.
	Forward
	// Reject drops it and tells its sender: TCP reset or ICMP port unreachable.
	Reject
	// Drop drops it in silence.
	Drop
)

// String names it.
func (v Verdict) String() string { return [...]string{"pass", "forward", "reject", "drop"}[v] }

// Outcome is what may become of a packet.
type Outcome struct {
	Verdict Verdict
	Reason  string // of Reject and Drop: what is counted
	// Backends is, for Forward, where it may go, and which source the backend
	// must see: the sender's own, or, if it is the backend itself, the frontend's
	// address with the sender's port. A node that reaches itself at another of its
	// addresses may see either. What came in by a NIC and goes to a backend outside
	// the cluster is seen from an address of the node, with any port: here 0.
	Backends map[netip.AddrPort]netip.AddrPort
	// Sticky tells that the client stays with the backend that it gets.
	Sticky bool
}

// The reasons that packets for Services are dropped for.
const (
	NoBackend      = "no-backend"
	NoService      = "no-service"
	SourceRange    = "source-range"
	NodePortNIC    = "nodeport-nic"
	ServiceOutside = "service-outside"
)

// Decide says what may become of the first packet of a flow.
func (s *State) Decide(p Packet) Outcome {
	if f, ok := s.frontend(p); ok {
		return s.serve(f, p)
	}
	inRange := contains(s.ServiceRanges, p.Dst.Addr())
	switch {
	case p.From == Socket || s.isNode(p.Dst.Addr()):
		return Outcome{Verdict: Pass}
	case p.From == Client && inRange:
		return Outcome{Verdict: Drop, Reason: ServiceOutside}
	case s.isServiceAddress(p):
		return Outcome{Verdict: Reject, Reason: NoService} // the address is a Service's, the port is not
	case inRange:
		return Outcome{Verdict: Drop, Reason: NoService} // allocated to nobody
	}
	return Outcome{Verdict: Pass}
}

// Continue says what becomes of a flow's later packet, after the cluster changed:
// true if it goes to the flow's backend as before. TCP does in any case; UDP as
// long as the backend serves the frontend's Service at all, chosen or not.
// Otherwise a UDP packet is one that begins a flow.
func (s *State) Continue(p Packet, backend netip.AddrPort) bool {
	if p.Protocol != corev1.ProtocolUDP {
		return true
	}
	return slices.ContainsFunc(s.Frontends(), func(f Frontend) bool {
		return f.Addr == p.Dst && f.Protocol == p.Protocol && slices.Contains(f.Serving, backend)
	})
}

// serve says what becomes of a packet for a frontend.
func (s *State) serve(f Frontend, p Packet) Outcome {
	if p.From == Socket && len(f.SourceRanges) > 0 {
		return Outcome{Verdict: Pass} // whose packet it will be is not known yet
	}
	if !f.admits(p.Src.Addr()) {
		return Outcome{Verdict: Drop, Reason: SourceRange}
	}
	if f.Kind == NodePort && (p.From == Client || p.From == Peer) && !f.opens(p.External) {
		return Outcome{Verdict: Drop, Reason: NodePortNIC}
	}
	if len(f.Backends) == 0 {
		switch {
		case p.From == Socket:
			return Outcome{Verdict: Pass} // its packets will be judged
		case f.Elsewhere:
			return Outcome{Verdict: Drop, Reason: NoBackend}
		}
		return Outcome{Verdict: Reject, Reason: NoBackend}
	}
	out := Outcome{Verdict: Forward, Backends: map[netip.AddrPort]netip.AddrPort{}, Sticky: f.Affinity > 0}
	for _, b := range f.Backends {
		out.Backends[b] = p.Src
		switch {
		case b.Addr() == p.Src.Addr():
			out.Backends[b] = netip.AddrPortFrom(p.Dst.Addr(), p.Src.Port())
		case (p.From == Client || p.From == Peer) && s.isOutside(b.Addr()):
			out.Backends[b] = netip.AddrPortFrom(s.wayOut(b.Addr()), 0)
		}
	}
	return out
}

// frontend returns the frontend that a packet is for. Where several Services
// claim one, the lowest kind has it, then the first name.
func (s *State) frontend(p Packet) (Frontend, bool) {
	for _, outside := range p.sides() {
		for _, f := range s.Frontends() {
			if f.Addr == p.Dst && f.Protocol == p.Protocol && f.Outside == outside {
				return f, true
			}
		}
	}
	return Frontend{}, false
}

// sides tells whether the packet is for frontends for the outside, for those for
// the cluster, or both: what another node sends on by a NodePort or LoadBalancer
// address is for this one to serve as from outside; a ClusterIP is for the cluster.
func (p Packet) sides() []bool {
	switch p.From {
	case Client:
		return []bool{true}
	case Peer:
		return []bool{true, false}
	}
	return []bool{false}
}

// isServiceAddress tells whether the address that a packet goes to is a
// Service's own, seen from where it comes. A node's addresses are not: its other
// ports are the node's.
func (s *State) isServiceAddress(p Packet) bool {
	return slices.ContainsFunc(s.Frontends(), func(f Frontend) bool {
		return f.Kind != NodePort && f.Addr.Addr() == p.Dst.Addr() && slices.Contains(p.sides(), f.Outside)
	})
}

// isOutside tells whether an address is neither a pod's nor a node's.
func (s *State) isOutside(addr netip.Addr) bool {
	return !contains(s.PodRanges, addr) && !s.isNode(addr)
}

// wayOut returns the address of the NIC that packets for the outside leave by:
// that of role external.
func (s *State) wayOut(to netip.Addr) netip.Addr {
	for _, nic := range s.NICs {
		for _, own := range nic.Addrs {
			if nic.External && own.Is4() == to.Is4() {
				return own
			}
		}
	}
	return netip.Addr{}
}

// isNode tells whether a node has the address.
func (s *State) isNode(addr netip.Addr) bool {
	for _, nic := range s.NICs {
		if slices.Contains(nic.Addrs, addr) {
			return true
		}
	}
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool { return slices.Contains(nodeAddrs(n), addr) })
}

// nodeAddrs returns the addresses that a Node object names.
func nodeAddrs(n *corev1.Node) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			addrs = append(addrs, netip.MustParseAddr(a.Address))
		}
	}
	return addrs
}

func contains(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(addr) })
}
