// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// markSent is the mark of what the programs redirected to a NIC or the tunnel.
const markSent = 0x20540001

func TestFromPod(t *testing.T) {
	big := make(packet.Payload, 1460)
	var (
		fromA  = packet.Eth{Src: macA, Dst: hostMAC}
		toA2   = packet.Eth{Src: hostMAC, Dst: macA2}
		syn    = packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}
		mss    = packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN, MSS: 1460}
		lower  = packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN, MSS: 1410}
		ack    = packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK}
		remote = packet.IPv4{Src: podA, Dst: podC, DF: true}
		router = netip.MustParseAddr("fe80::1")
		ll     = netip.MustParseAddr("fe80::5")
	)
	arp := func(sender netip.Addr) []byte {
		return packet.Build(fromA, packet.ARP{Op: packet.ARPRequest, SenderMAC: macA, SenderIP: sender, TargetIP: nodeA})
	}
	nobody := packet.Build(fromA, packet.IPv4{Src: podA, Dst: podA2.Next()}, syn)
	tooBig6 := packet.Build(fromA, packet.IPv6{Src: podA6, Dst: podC6, NextHeader: 44},
		packet.Fragment6{More: true, ID: 7}, packet.UDP{Src: 4000, Dst: 53}, packet.Payload(big[:1440]))
	tooBig := packet.Build(fromA, remote, ack, big)
	cases := []struct {
		name    string
		in      []byte
		verdict uint32
		out     []byte // nil: as it came
		mark    uint32
		reason  objects.MapDropReason
	}{
		{name: "pod of the node", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podA2}, syn),
			verdict: redirect, out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, syn)},
		{name: "options in the header", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podA2, Options: []byte{1, 1, 1, 1}}, syn),
			verdict: redirect, out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2, Options: []byte{1, 1, 1, 1}}, syn)},
		{name: "another's address", in: packet.Build(fromA, packet.IPv4{Src: podB, Dst: podA2}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_POD_SOURCE},
		{name: "another's MAC", in: packet.Build(packet.Eth{Src: macA2, Dst: hostMAC}, packet.IPv4{Src: podA, Dst: podA2}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_POD_MAC},
		{name: "ARP for itself", in: arp(podA), verdict: pass},
		{name: "ARP probe", in: arp(netip.IPv4Unspecified()), verdict: pass},
		{name: "ARP for another", in: arp(podA2.Next()), verdict: drop, reason: objects.MapDropReasonDROP_POD_ARP},
		{name: "multicast", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: netip.MustParseAddr("224.0.0.251")}, packet.UDP{Src: 5353, Dst: 5353}), verdict: pass},
		{name: "neighbour discovery with the node", in: packet.Build(fromA, packet.IPv6{Src: ll, Dst: router, HopLimit: 255},
			packet.NDP{Type: packet.NeighborSolicitation, Target: router, LinkAddr: macA}), verdict: pass},
		{name: "link-local to elsewhere", in: packet.Build(fromA, packet.IPv6{Src: ll, Dst: podB6}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_POD_SOURCE},
		{name: "outside", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, syn), verdict: pass},
		{name: "not IP", in: packet.Build(packet.Eth{Src: macA, Dst: hostMAC, Type: 0x88cc}, packet.Payload("lldp")), verdict: pass},
		{name: "cut header", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podA2, Protocol: 6}, packet.Payload("cut")),
			verdict: drop, reason: objects.MapDropReasonDROP_MALFORMED},
		{name: "IPv4's address in IPv6", in: packet.Build(fromA, packet.IPv6{Src: netip.AddrFrom16(podA.As16()), Dst: netip.AddrFrom16(podA2.As16())}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_MALFORMED},
		{name: "other protocol", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podA2, Protocol: 89}, packet.Payload("ospf")),
			verdict: redirect, out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2, Protocol: 89}, packet.Payload("ospf"))},
		{name: "native route", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podB}, syn), verdict: redirect, mark: markSent},
		{name: "native route v6", in: packet.Build(fromA, packet.IPv6{Src: podA6, Dst: podB6}, syn), verdict: redirect, mark: markSent},
		{name: "tunnel", in: packet.Build(fromA, remote, ack), verdict: redirect, mark: markSent},
		{name: "MSS clamped into the tunnel", in: packet.Build(fromA, remote, mss),
			verdict: redirect, out: packet.Build(fromA, remote, lower), mark: markSent},
		{name: "MSS low enough", in: packet.Build(fromA, remote, lower), verdict: redirect, mark: markSent},
		{name: "too big for the tunnel", in: tooBig, verdict: redirect, mark: markSent, reason: objects.MapDropReasonDROP_TOO_BIG,
			out: packet.Build(packet.Eth{Src: hostMAC, Dst: macA}, packet.IPv4{Src: podC, Dst: podA, DF: true},
				packet.ICMP{Type: 3, Code: 4, Rest: 1450}, packet.Quote(tooBig, 40))},
		{name: "fragment too big for the tunnel, v6", in: tooBig6, verdict: redirect, mark: markSent, reason: objects.MapDropReasonDROP_TOO_BIG,
			out: packet.Build(packet.Eth{Src: hostMAC, Dst: macA}, packet.IPv6{Src: podC6, Dst: podA6},
				packet.ICMPv6{Type: 2, Rest: 1450}, packet.Quote(tooBig6, 56))},
		{name: "too big, to be fragmented by the stack",
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podC}, packet.UDP{Src: 1, Dst: 2}, big), verdict: pass},
		{name: "no pod has the address", in: nobody,
			verdict: redirect, mark: markSent, reason: objects.MapDropReasonDROP_NO_POD,
			out: packet.Build(packet.Eth{Src: hostMAC, Dst: macA}, packet.IPv4{Src: podA2.Next(), Dst: podA, DF: true},
				packet.ICMP{Type: 3, Code: 1}, packet.Quote(nobody, 0))},
		{name: "no node has the range", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: netip.MustParseAddr("10.244.9.9")}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_NO_ROUTE},
		{name: "no such Service", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: netip.MustParseAddr("10.96.9.9")}, syn),
			verdict: drop, reason: objects.MapDropReasonDROP_NO_SERVICE},
		{name: "tunnel packet to a node", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: nodeB}, packet.UDP{Src: 1, Dst: 4789}, packet.VXLAN{VNI: 1}),
			verdict: drop, reason: objects.MapDropReasonDROP_POD_TUNNEL},
		{name: "node on our link", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: nodeB}, syn), verdict: pass},
		{name: "node behind a router", in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: nodeC}, syn), verdict: redirect, mark: markSent},
	}
	n := newNode(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			out := c.out
			if out == nil {
				out = c.in
			}
			r := n.run("tc_pod_in", c.in)
			n.wantDropped(r, c.verdict, out, c.reason)
			if r.mark != c.mark {
				t.Errorf("mark %#x, want %#x", r.mark, c.mark)
			}
		})
	}
}

// What the stack sends to a pod is left alone until the pod is a Service's client.
func TestToPod(t *testing.T) {
	n := newNode(t)
	in := packet.Build(packet.Eth{Src: hostMAC, Dst: macA}, packet.IPv4{Src: nodeA, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.ACK})
	n.want(n.run("tc_pod_out", in), pass, in)
	n.put("endpoints", objects.Addr(podA), objects.MapEndpoint{Ifindex: here, Policy: 1, Mac: macA, HostMac: hostMAC})
	n.want(n.run("tc_pod_out", in), drop, in, objects.MapDropReasonDROP_POLICY)
}

// What a pod may get is judged where its sender's packet is, what it may send at its veth.
func TestPolicySlot(t *testing.T) {
	n := newNode(t)
	n.put("endpoints", objects.Addr(podA2), objects.MapEndpoint{Ifindex: 11, Policy: 1, Mac: macA2, HostMac: hostMAC})
	in := packet.Build(packet.Eth{Src: macA, Dst: hostMAC}, packet.IPv4{Src: podA, Dst: podA2}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})
	n.want(n.run("tc_pod_in", in), drop, in, objects.MapDropReasonDROP_POLICY)

	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA2, 80)}})
	in = packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})
	n.want(n.run("tc_uplink_in", in), drop, in, objects.MapDropReasonDROP_POLICY)
	in = packet.Build(packet.Eth{Src: macA2, Dst: hostMAC}, packet.IPv4{Src: podA2, Dst: client}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN})
	n.endpoint(podA2, here, macA2)
	n.want(n.run("tc_pod_in", in), pass, in)
	n.put("endpoints", objects.Addr(podA2), objects.MapEndpoint{Ifindex: here, Policy: 1, Mac: macA2, HostMac: hostMAC})
	n.want(n.run("tc_pod_in", in), drop, in, objects.MapDropReasonDROP_POLICY)
}
