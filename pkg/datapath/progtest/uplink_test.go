// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

var (
	fromRouter = packet.Eth{Src: routerMAC, Dst: nicMAC}
	toRouter   = packet.Eth{Src: nicMAC, Dst: routerMAC}
	fromPeer   = packet.Eth{Src: peerMAC, Dst: nicMAC}
	toPeer     = packet.Eth{Src: nicMAC, Dst: peerMAC}
)

// A client outside reaches a pod of this node; answers leave as it came.
func TestLoadBalancerLocal(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
	n.service(2, service{addr: vip6, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA6, 8080)}})
	n.steps([]step{
		{name: "SYN", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "SYN-ACK", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK, MSS: 1460}),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK, MSS: 1460})},
		{name: "ACK", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.ACK})},
		{name: "by another router", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(packet.Eth{Src: peerMAC, Dst: nicMAC}, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.ACK})},
		{name: "answered by that one", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.ACK}),
			out: packet.Build(toPeer, packet.IPv4{Src: vip, Dst: client}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.ACK})},
		{name: "SYN v6", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv6{Src: cli6, Dst: vip6}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(toA, packet.IPv6{Src: cli6, Dst: podA6}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "SYN-ACK v6", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv6{Src: podA6, Dst: cli6}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toRouter, packet.IPv6{Src: vip6, Dst: cli6}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "the pod's own connection", program: "tc_pod_in", verdict: pass,
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.TCP{Src: 5000, Dst: 4000, Flags: packet.SYN})},
	})
	if c, f := n.count("flows"), n.count("flows_new"); c != 2 || f != 2 {
		t.Errorf("%d confirmed and %d new entries, want 2 and 2", c, f)
	}
}

// The backend is on another node: its address is put in, the client's stays,
// and answers come back by that node alone.
func TestLoadBalancerRemote(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podB, 8080)}})
	n.service(2, service{addr: vip, port: 81, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podC, 8080)}})
	n.service(3, service{addr: vip, port: 82, proto: 6, scopes: external, backends: []netip.AddrPort{ap(nodeB, 8080)}})
	answer := packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}
	big := make(packet.Payload, 1460)
	tooBig := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, DF: true}, packet.TCP{Src: 4000, Dst: 81, Flags: packet.ACK}, big)
	jumbo := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, DF: true}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK}, big)
	n.put("nics", uint32(nicB), objects.MapNic{Mac: nicMAC, Mtu: 1400, Role: 1})
	n.steps([]step{
		{name: "SYN", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: podB, TTL: 63}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "forged answer", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE,
			in: packet.Build(fromRouter, packet.IPv4{Src: podB, Dst: client}, answer)},
		{name: "SYN-ACK", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, packet.IPv4{Src: podB, Dst: client}, answer),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, TTL: 63}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "last hop", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_TTL,
			in: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, TTL: 1}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK})},
		{name: "through the tunnel, MSS clamped", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 81, Flags: packet.SYN, MSS: 1460}),
			out: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: podC, TTL: 63}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN, MSS: 1410})},
		{name: "too big for the tunnel", program: "tc_uplink_in", verdict: redirect, reason: objects.MapDropReasonDROP_TOO_BIG,
			in: tooBig,
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, DF: true},
				packet.ICMP{Type: 3, Code: 4, Rest: 1450}, packet.Quote(tooBig, 40))},
		{name: "backend on the other node's network", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 82, Flags: packet.SYN}),
			out: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeB, TTL: 63}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "its answer", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, packet.IPv4{Src: nodeB, Dst: client}, answer),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, TTL: 63}, packet.TCP{Src: 82, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "too big for the NIC", program: "tc_uplink_in", verdict: redirect, reason: objects.MapDropReasonDROP_TOO_BIG,
			in: jumbo,
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, DF: true},
				packet.ICMP{Type: 3, Code: 4, Rest: 1400}, packet.Quote(jumbo, 40))},
		{name: "SYN-ACK to the tunnel's flow", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, packet.IPv4{Src: podC, Dst: client}, answer),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, TTL: 63}, packet.TCP{Src: 81, Dst: 4000, Flags: packet.SYN | packet.ACK})},
	})
}

// At the backend's node: what another node sends for a client outside goes
// back by that node, the latest one.
func TestReturnsByItsNode(t *testing.T) {
	n := newNode(t)
	other := packet.MAC{2, 0, 0, 0, 2, 3}
	n.put("peers", objects.MapPeerKey{Ifindex: here, Mac: other}, objects.MapPeer{Node: objects.Addr(nodeC)})
	n.ns.Exec(t, "ip", "addr", "add", nodeA.String()+"/32", "dev", "lo")
	n.listen(53)
	answer := packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}
	arrive := func(eth packet.Eth, flags uint8) step {
		return step{name: "in", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(eth, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: flags}),
			out: packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: flags})}
	}
	leave := func(eth packet.Eth) step {
		return step{name: "out", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, answer),
			out: packet.Build(eth, packet.IPv4{Src: podA, Dst: client}, answer)}
	}
	n.steps([]step{
		arrive(fromPeer, packet.SYN), leave(toPeer), arrive(fromPeer, packet.ACK), leave(toPeer),
		arrive(packet.Eth{Src: other, Dst: nicMAC}, packet.ACK), leave(packet.Eth{Src: nicMAC, Dst: other}),
		{name: "another node's pod", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, packet.IPv4{Src: podB, Dst: podA}, answer),
			out: packet.Build(toA, packet.IPv4{Src: podB, Dst: podA}, answer)},
		{name: "client of a pod on the host's network", program: "tc_uplink_in", verdict: pass,
			in: packet.Build(fromPeer, packet.IPv4{Src: client, Dst: nodeA}, packet.UDP{Src: 4000, Dst: 53})},
		{name: "its answer", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: client}, packet.UDP{Src: 53, Dst: 4000}),
			out: packet.Build(toPeer, packet.IPv4{Src: nodeA, Dst: client}, packet.UDP{Src: 53, Dst: 4000})},
	})
	if c, f := n.count("flows"), n.count("flows_new"); c != 2 || f != 0 {
		t.Errorf("%d confirmed and %d new entries, want 2 and 0", c, f)
	}
}

// What may not come in from a NIC.
func TestFromOutside(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA, 80)}})
	n.service(2, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 80)}, fe: objects.MapFrontend{Ranges: 5}})
	nodePort := objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_NODEPORT), NicRoles: 2}
	n.service(3, service{addr: nodeA, port: 30080, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 80)}, fe: nodePort})
	allowed := netip.MustParsePrefix("198.51.100.0/24")
	n.put("source_ranges", objects.MapRangeKey{Prefixlen: 32 + objects.Bits(allowed), Ranges: 5, Addr: allowed.Addr().As16()}, uint32(1))
	tcp := func(src, dst netip.Addr, port uint16) []byte {
		return packet.Build(fromRouter, packet.IPv4{Src: src, Dst: dst}, packet.TCP{Src: 4000, Dst: port, Flags: packet.SYN})
	}
	peer := func(src, dst netip.Addr, port uint16) []byte {
		return packet.Build(fromPeer, packet.IPv4{Src: src, Dst: dst}, packet.TCP{Src: 4000, Dst: port, Flags: packet.SYN})
	}
	vxlan := func(eth packet.Eth, src netip.Addr) []byte {
		return packet.Build(eth, packet.IPv4{Src: src, Dst: nodeA}, packet.UDP{Src: 4000, Dst: 4789}, packet.VXLAN{VNI: 20546})
	}
	nobody := podA2.Next()
	datagram := packet.Build(fromPeer, packet.IPv4{Src: podB, Dst: nobody}, packet.UDP{Src: 4000, Dst: 53})
	n.steps([]step{
		{name: "pod", program: "tc_uplink_in", in: tcp(client, podA, 80), verdict: drop, reason: objects.MapDropReasonDROP_POD_OUTSIDE},
		{name: "another node's pod", program: "tc_uplink_in", in: tcp(client, podB, 80), verdict: drop, reason: objects.MapDropReasonDROP_POD_OUTSIDE},
		{name: "another node's pod, by a node", program: "tc_uplink_in", in: peer(client, podB, 80), verdict: drop, reason: objects.MapDropReasonDROP_THIRD_NODE},
		{name: "pod that isn't", program: "tc_uplink_in", in: peer(podB, nobody, 80), verdict: redirect, reason: objects.MapDropReasonDROP_NO_POD,
			out: packet.Build(toPeer, packet.IPv4{Src: nobody, Dst: podB, DF: true}, packet.ICMP{Type: 3, Code: 1}, packet.Quote(peer(podB, nobody, 80), 0))},
		{name: "pod that isn't, UDP", program: "tc_uplink_in", in: datagram, verdict: redirect, reason: objects.MapDropReasonDROP_NO_POD,
			out: packet.Build(toPeer, packet.IPv4{Src: nobody, Dst: podB, DF: true}, packet.ICMP{Type: 3, Code: 3}, packet.Quote(datagram, 0))},
		{name: "ClusterIP", program: "tc_uplink_in", in: tcp(client, clusIP, 80), verdict: drop, reason: objects.MapDropReasonDROP_SERVICE_OUTSIDE},
		{name: "ClusterIP, by a node", program: "tc_uplink_in", in: peer(nodeB, clusIP.Next(), 80), verdict: drop, reason: objects.MapDropReasonDROP_NO_SERVICE},
		{name: "range", program: "tc_uplink_in", in: tcp(client, vip, 80), verdict: drop, reason: objects.MapDropReasonDROP_SOURCE_RANGE},
		{name: "in range", program: "tc_uplink_in", in: tcp(netip.MustParseAddr("198.51.100.7"), vip, 80), verdict: redirect,
			out: packet.Build(toA, packet.IPv4{Src: netip.MustParseAddr("198.51.100.7"), Dst: podA}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})},
		{name: "NodePort on the wrong NIC", program: "tc_uplink_in", in: tcp(client, nodeA, 30080), verdict: drop, reason: objects.MapDropReasonDROP_NODEPORT_NIC},
		{name: "other port of the node", program: "tc_uplink_in", in: tcp(client, nodeA, 22), verdict: pass},
		{name: "forged pod", program: "tc_uplink_in", in: tcp(podB, nodeA, 22), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE},
		{name: "a pod of this node, by a node", program: "tc_uplink_in", in: peer(podA, nodeA, 22), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE},
		{name: "forged node", program: "tc_uplink_in", in: tcp(nodeA, nodeA, 22), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE},
		{name: "forged Service", program: "tc_uplink_in", in: tcp(clusIP, nodeA, 22), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE},
		{name: "loopback", program: "tc_uplink_in", in: tcp(netip.MustParseAddr("127.0.0.1"), nodeA, 22), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE},
		{name: "tunnel", program: "tc_uplink_in", in: vxlan(fromPeer, nodeB), verdict: pass},
		{name: "tunnel, wrong MAC", program: "tc_uplink_in", in: vxlan(fromRouter, nodeB), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_TUNNEL},
		{name: "tunnel, wrong address", program: "tc_uplink_in", in: vxlan(fromPeer, client), verdict: drop, reason: objects.MapDropReasonDROP_FORGED_TUNNEL},
		{name: "multicast", program: "tc_uplink_in", in: tcp(client, netip.MustParseAddr("224.0.0.1"), 22), verdict: pass},
	})
	n.put("peers", objects.MapPeerKey{Addr: objects.Addr(nodeC), Ifindex: here}, objects.MapPeer{Node: objects.Addr(nodeC)})
	n.steps([]step{{name: "tunnel, behind a router", program: "tc_uplink_in", in: vxlan(fromRouter, nodeC), verdict: pass}})
	if f := n.count("flows_new"); f != 2 {
		t.Errorf("%d entries, want the one admitted flow's 2", f)
	}
	n.put("nics", uint32(here), objects.MapNic{Mac: nicMAC, Role: 2})
	n.steps([]step{{name: "NodePort", program: "tc_uplink_in", in: tcp(client, nodeA, 30080), verdict: redirect,
		out: packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})}})
}

// The node's own packets that passed the socket hooks by.
func TestFromHost(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: clusIP, port: 80, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA, 8080)}})
	n.service(2, service{addr: clusIP, port: 81, proto: 6, scopes: cluster, fe: objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_REJECT)}})
	n.service(3, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(nodeA, 8080)}})
	n.service(4, service{addr: clusIP, port: 82, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(nodeA, 6443)}})
	n.service(5, service{addr: clusIP, port: 83, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(client, 443)}})
	data := packet.Payload("data")
	n.steps([]step{
		{name: "to a ClusterIP", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.UDP{Src: 4000, Dst: 80}, data),
			out: packet.Build(toA, packet.IPv4{Src: nodeA, Dst: podA}, packet.UDP{Src: 4000, Dst: 8080}, data)},
		{name: "the answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: nodeA}, packet.UDP{Src: 8080, Dst: 4000}, data),
			out: packet.Build(fromRouter, packet.IPv4{Src: clusIP, Dst: nodeA}, packet.UDP{Src: 80, Dst: 4000}, data)},
		{name: "to itself", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 82, Flags: packet.SYN}),
			out: packet.Build(fromRouter, packet.IPv4{Src: clusIP, Dst: nodeA}, packet.TCP{Src: 4000, Dst: 6443, Flags: packet.SYN})},
		{name: "its own answer", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.TCP{Src: 6443, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(fromRouter, packet.IPv4{Src: clusIP, Dst: nodeA}, packet.TCP{Src: 82, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "to a backend outside", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 83, Flags: packet.SYN}),
			out: packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: client}, packet.TCP{Src: 4000, Dst: 443, Flags: packet.SYN})},
		{name: "its answer, in anybody's frame", program: "tc_uplink_in", verdict: pass,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeA}, packet.TCP{Src: 443, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(fromRouter, packet.IPv4{Src: clusIP, Dst: nodeA}, packet.TCP{Src: 83, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "refused", program: "tc_uplink_out", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in:  packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 81, Flags: packet.SYN}),
			out: noWindow(packet.Build(fromRouter, packet.IPv4{Src: clusIP, Dst: nodeA, DF: true}, packet.TCP{Src: 81, Dst: 4000, Flags: packet.RST | packet.ACK, Ack: 1}))},
		{name: "no such Service", program: "tc_uplink_out", verdict: drop, reason: objects.MapDropReasonDROP_NO_SERVICE,
			in: packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP.Next()}, packet.TCP{Src: 4000, Dst: 81, Flags: packet.SYN})},
		{name: "backend on the host's network", program: "tc_uplink_in", verdict: pass,
			in:  packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeA}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "its answer", program: "tc_uplink_out", verdict: redirect,
			in:  packet.Build(packet.Eth{Src: nicMAC, Dst: peerMAC}, packet.IPv4{Src: nodeA, Dst: client}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "elsewhere", program: "tc_uplink_out", verdict: pass,
			in: packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: client}, packet.UDP{Src: 4000, Dst: 80}, data)},
	})
	marked := packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: clusIP}, packet.UDP{Src: 4001, Dst: 80}, data)
	n.want(n.runWith("tc_uplink_out", marked, skb{Mark: markSent}), pass, marked)
	n.want(n.runWith("tc_uplink_out", marked, skb{IngressIfindex: here}), pass, marked)
}

// A pod of another node asks for what its own node left to us, a NodePort with
// policy Local: the external backends count, whose answers come back here.
func TestScopeOfNodes(t *testing.T) {
	n := newNode(t)
	local := objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_NODEPORT), NicRoles: 1}
	n.service(1, service{addr: nodeA, port: 30080, proto: 6, scopes: external[1:], backends: []netip.AddrPort{ap(podA, 80)}, fe: local})
	n.service(2, service{addr: nodeA, port: 30080, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podC, 80)}, fe: local})
	n.service(3, service{addr: nodeA, port: 30081, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA, 81)}})
	ask := func(eth packet.Eth, src netip.Addr, port uint16) []byte {
		return packet.Build(eth, packet.IPv4{Src: src, Dst: nodeA}, packet.TCP{Src: 4000, Dst: port, Flags: packet.SYN})
	}
	n.steps([]step{
		{name: "both scopes", program: "tc_uplink_in", in: ask(fromPeer, podB, 30080), verdict: redirect,
			out: packet.Build(toA, packet.IPv4{Src: podB, Dst: podA}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})},
		{name: "the answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: podB}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toPeer, packet.IPv4{Src: nodeA, Dst: podB}, packet.TCP{Src: 30080, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "the cluster's alone", program: "tc_uplink_in", in: ask(fromPeer, nodeB, 30081), verdict: redirect,
			out: packet.Build(toA, packet.IPv4{Src: nodeB, Dst: podA}, packet.TCP{Src: 4000, Dst: 81, Flags: packet.SYN})},
		{name: "the cluster's alone, from outside", program: "tc_uplink_in", in: ask(fromRouter, client, 30081), verdict: pass},
	})
}

// What others could say in the place of pods and nodes.
func TestForged(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA2, 80)}})
	n.endpoint(podA2, here, macA2)
	hidden := append(packet.Payload{17, 0, 0, 0, 0, 0, 0, 0}, packet.Build(packet.UDP{Src: 4000, Dst: 4789})...)
	node6 := netip.MustParseAddr("fd00:1::2")
	ra := netip.MustParseAddr("fe80::5")
	unmasqueraded := netip.MustParsePrefix("172.16.0.0/16")
	n.put("routes", objects.MapRouteKey{Prefixlen: objects.Bits(unmasqueraded), Addr: unmasqueraded.Addr().As16()},
		objects.MapRoute{Kind: kind(objects.MapRouteKindROUTE_UNMASQUERADED)})
	syn := packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}
	friend := unmasqueraded.Addr().Next()
	n.steps([]step{
		{name: "a pod's flow begins", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: vip}, syn),
			out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, syn)},
		{name: "somebody outside speaks in it", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE,
			in: packet.Build(fromRouter, packet.IPv4{Src: podA, Dst: vip}, syn)},
		{name: "and in its answers", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE,
			in: packet.Build(fromRouter, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.ACK})},
		{name: "tunnel packet behind an extension header", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_TUNNEL,
			in: packet.Build(fromRouter, packet.IPv6{Src: node6, Dst: vip6, NextHeader: 60}, hidden)},
		{name: "tunnel packet to all", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_TUNNEL,
			in: packet.Build(fromRouter, packet.IPv4{Src: nodeB, Dst: netip.MustParseAddr("255.255.255.255")}, packet.UDP{Src: 4000, Dst: 4789})},
		{name: "tunnel packet of a pod to all", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_POD_TUNNEL,
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: netip.MustParseAddr("255.255.255.255")}, packet.UDP{Src: 4000, Dst: 4789})},
		{name: "tunnel packet of a pod to wherever", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_POD_TUNNEL,
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.UDP{Src: 4000, Dst: 4789})},
		{name: "multicast of a pod as another", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_POD_SOURCE,
			in: packet.Build(fromA, packet.IPv4{Src: podB, Dst: netip.MustParseAddr("224.0.0.1")}, packet.UDP{Src: 1, Dst: 2})},
		{name: "a pod as router", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_POD_ARP,
			in: packet.Build(fromA, packet.IPv6{Src: ra, Dst: netip.MustParseAddr("ff02::1"), HopLimit: 255}, packet.ICMPv6{Type: 134}, packet.Payload("12345678"))},
		{name: "a frame for another", program: "tc_uplink_in", verdict: pass,
			in: packet.Build(packet.Eth{Src: routerMAC, Dst: peerMAC}, packet.IPv4{Src: client, Dst: vip}, syn)},
		{name: "from where pods are known", program: "tc_uplink_in", verdict: redirect,
			in: packet.Build(fromRouter, packet.IPv4{Src: friend, Dst: podA}, syn), out: packet.Build(toA, packet.IPv4{Src: friend, Dst: podA}, syn)},
		{name: "answer to there", program: "tc_pod_in", verdict: pass,
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: friend}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
	})
}
