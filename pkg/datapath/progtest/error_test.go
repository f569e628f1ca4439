// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// ICMP errors find the sender of what they quote, and quote what it sent.
func TestErrors(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.endpoint(podA26, here, macA2)
	n.service(1, service{addr: vip, port: 53, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA, 5353)}})
	n.service(2, service{addr: vip6, port: 53, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA6, 5353)}})
	n.service(3, service{addr: vip, port: 54, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podB, 5353)}})
	n.service(4, service{addr: clusIP, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 5353)}})
	n.service(5, service{addr: clusIP, port: 36412, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 5353)}})
	data := packet.Payload("data")
	router := netip.MustParseAddr("203.0.113.1")
	v4 := func(src, dst netip.Addr) packet.IPv4 { return packet.IPv4{Src: src, Dst: dst} }
	v6 := func(src, dst netip.Addr) packet.IPv6 { return packet.IPv6{Src: src, Dst: dst} }
	there := func(sport, dport uint16) packet.UDP { return packet.UDP{Src: sport, Dst: dport, NoChecksum: true} }
	// What was sent, as its receiver got it.
	atPod := packet.Build(toA, v4(client, podA), there(4000, 5353), data)
	atPod6 := packet.Build(toA, v6(cli6, podA6), there(4000, 5353), data)
	atPodB := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: podB, TTL: 63}, there(4000, 5353), data)
	atPodA2 := packet.Build(toA2, v4(podA, podA2), there(4000, 5353), data)
	sent := packet.Build(fromRouter, v4(client, vip), there(4000, 53), data)
	sent6 := packet.Build(fromRouter, v6(cli6, vip6), there(4000, 53), data)
	sentB := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip, TTL: 63}, there(4000, 54), data)
	sentA := packet.Build(fromA, v4(podA, clusIP), there(4000, 53), data)
	answered := packet.Build(toRouter, v4(vip, client), there(53, 4000), data)
	answer := packet.Build(fromA, v4(podA, client), there(5353, 4000), data)
	unreachable, unreachable6 := packet.ICMP{Type: 3, Code: 3}, packet.ICMPv6{Type: 1, Code: 4}
	fragNeeded := packet.ICMP{Type: 3, Code: 4, Rest: 1400}
	for _, frame := range [][]byte{sent, sent6, packet.Build(fromRouter, v4(client, vip), there(4000, 54), data)} {
		if r := n.run("tc_uplink_in", frame); r.verdict != redirect {
			t.Fatalf("verdict %s, dropped %v", verdictName(r.verdict), r.dropped)
		}
	}
	n.run("tc_pod_in", sentA)
	// The quoted packet's checksum stays: there may not be all that it covers.
	association := n.run("tc_pod_in", packet.Build(fromA, v4(podA, clusIP), packet.SCTP{Src: 4000, Dst: 36412}, initChunk)).frame
	begun := packet.Quote(packet.Build(fromA, v4(podA, clusIP), packet.SCTP{Src: 4000, Dst: 36412}, initChunk), 28)
	n.steps([]step{
		{name: "from the pod", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4(podA, client), unreachable, packet.Quote(atPod, 0)),
			out: packet.Build(toRouter, v4(vip, client), unreachable, packet.Quote(sent, 0))},
		{name: "from the pod, v6", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v6(podA6, cli6), unreachable6, packet.Quote(atPod6, 0)),
			out: packet.Build(toRouter, v6(vip6, cli6), unreachable6, packet.Quote(sent6, 0))},
		{name: "from a router on the client's side", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromRouter, v4(router, vip), fragNeeded, packet.Quote(answered, 0)),
			out: packet.Build(toA, v4(router, podA), fragNeeded, packet.Quote(answer, 0))},
		{name: "from another node's pod", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, v4(podB, client), unreachable, packet.Quote(atPodB, 0)),
			out: packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client, TTL: 63}, unreachable, packet.Quote(sentB, 0))},
		{name: "forged", program: "tc_uplink_in", verdict: drop, reason: objects.MapDropReasonDROP_FORGED_SOURCE,
			in: packet.Build(fromRouter, v4(podB, client), unreachable, packet.Quote(atPodB, 0))},
		{name: "ClusterIP", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, v4(podA2, podA), unreachable, packet.Quote(atPodA2, 0)),
			out: packet.Build(toA, v4(clusIP, podA), unreachable, packet.Quote(sentA, 0))},
		{name: "of SCTP", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, v4(podA2, podA), unreachable, packet.Quote(association, 28)),
			out: packet.Build(toA, v4(clusIP, podA), unreachable, begun)},
		{name: "of no flow", program: "tc_pod_in", verdict: pass,
			in: packet.Build(fromA, v4(podA, client), unreachable, packet.Quote(sentA, 0))},
	})
}

// At the backend's node an error goes back by the node that sent the packet.
func TestErrorReturns(t *testing.T) {
	n := newNode(t)
	sent := packet.Build(fromPeer, packet.IPv4{Src: client, Dst: podA}, packet.UDP{Src: 4000, Dst: 5353}, packet.Payload("data"))
	n.run("tc_uplink_in", sent)
	unreachable := packet.ICMP{Type: 3, Code: 3}
	n.steps([]step{{name: "from the pod", program: "tc_pod_in", verdict: redirect,
		in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, unreachable, packet.Quote(sent, 28)),
		out: packet.Build(toPeer, packet.IPv4{Src: podA, Dst: client}, unreachable, packet.Quote(sent, 28))}})
}
