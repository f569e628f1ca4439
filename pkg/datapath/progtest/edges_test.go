// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// A pod whose address lies in no range of this node is as closed to the outside
// as others are.
func TestPodOutOfRange(t *testing.T) {
	n := newNode(t)
	stray := netip.MustParseAddr("172.30.0.5")
	n.endpoint(stray, 11, macA2)
	frame := func(eth packet.Eth) []byte {
		return packet.Build(eth, packet.IPv4{Src: client, Dst: stray}, packet.UDP{Src: 4000, Dst: 53})
	}
	n.steps([]step{
		{name: "from outside", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_POD_OUTSIDE, in: frame(fromRouter)},
		{name: "from a node", program: "tc_uplink_in", verdict: redirect, in: frame(fromPeer), out: frame(toA2)},
		{name: "to what is no pod", program: "tc_uplink_in", verdict: pass,
			in: packet.Build(fromRouter, packet.IPv4{Src: client, Dst: netip.MustParseAddr("172.30.0.6")}, packet.UDP{Src: 4000, Dst: 53})},
	})
}

// A backend on the network of a node that only the stack knows the way to: its
// answers come by a router.
func TestBackendBehindRouter(t *testing.T) {
	n := newNode(t)
	far := netip.MustParseAddr("10.50.0.9")
	p := netip.PrefixFrom(far, 32)
	n.put("routes", objects.MapRouteKey{Prefixlen: objects.Bits(p), Addr: far.As16()}, objects.MapRoute{Kind: kind(objects.MapRouteKindROUTE_CLUSTER)})
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(far, 8080)}})
	n.steps([]step{
		{name: "SYN", program: "tc_pod_in", verdict: pass,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(fromA, packet.IPv4{Src: podA, Dst: far}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "SYN-ACK", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, packet.IPv4{Src: far, Dst: podA}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
	})
}

// A client's port that is used again: the way back is an open connection's, not
// one that is about to end.
func TestWayBackBeginsAnew(t *testing.T) {
	n := newNode(t)
	arrive := func(flags uint8) {
		n.run("tc_uplink_in", packet.Build(fromPeer, packet.IPv4{Src: client, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: flags}))
	}
	leave := func(flags uint8) {
		n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.TCP{Src: 8080, Dst: 4000, Flags: flags}))
	}
	for range 2 {
		arrive(packet.SYN)
		leave(packet.SYN | packet.ACK)
		arrive(packet.ACK)
		var key objects.MapFlowKey
		var flow objects.MapFlow
		if !n.maps["flows"].Iterate().Next(&key, &flow) {
			t.Fatal("the way back isn't confirmed")
		}
		if fin := uint8(objects.MapFlowFlagsFLOW_FIN); flow.Flags&fin != 0 {
			t.Errorf("flags %#x, want no FIN", flow.Flags)
		}
		arrive(packet.FIN | packet.ACK)
		leave(packet.FIN | packet.ACK)
		arrive(packet.ACK)
	}
}

// Whoever may make a Service with a node's address doesn't get what nodes send
// each other.
func TestTunnelPortIsNoService(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: nodeA, port: 4789, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA2, 53)}})
	frame := func(eth packet.Eth, src netip.Addr) []byte {
		return packet.Build(eth, packet.IPv4{Src: src, Dst: nodeA}, packet.UDP{Src: 5000, Dst: 4789}, packet.VXLAN{VNI: 20546})
	}
	n.steps([]step{
		{name: "from a node", program: "tc_uplink_in", verdict: pass, in: frame(fromPeer, nodeB)},
		{name: "from outside", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_TUNNEL, in: frame(fromRouter, client)},
	})
}
