// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/test/packet"
)

// A connection whose frontend's address comes to the backend's own node, and goes
// away again, goes on: with the same backend, from the same port.
func TestAddressMoves(t *testing.T) {
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto, func(t *testing.T) {
			n := newNode(t)
			n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
			n.service(2, service{addr: vip, port: 80, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
			layer := func(src, dst uint16, flags uint8) packet.Layer {
				if proto == "udp" {
					return packet.UDP{Src: src, Dst: dst}
				}
				return packet.TCP{Src: src, Dst: dst, Flags: flags}
			}
			there := func(eth packet.Eth, dst netip.Addr, port uint16, flags uint8) []byte {
				return packet.Build(eth, packet.IPv4{Src: client, Dst: dst}, layer(4000, port, flags))
			}
			back := func(eth packet.Eth, src netip.Addr, port uint16, flags uint8) []byte {
				return packet.Build(eth, packet.IPv4{Src: src, Dst: client}, layer(port, 4000, flags))
			}
			byPeer := []step{
				{name: "by the other node", program: "tc_uplink_in", verdict: redirect,
					in: there(fromPeer, podA, 8080, packet.ACK), out: there(toA, podA, 8080, packet.ACK)},
				{name: "its answer", program: "tc_pod_in", verdict: redirect,
					in: back(fromA, podA, 8080, packet.ACK), out: back(toPeer, podA, 8080, packet.ACK)},
			}
			here := []step{
				{name: "by this node", program: "tc_uplink_in", verdict: redirect,
					in: there(fromRouter, vip, 80, packet.ACK), out: there(toA, podA, 8080, packet.ACK)},
				{name: "its answer", program: "tc_pod_in", verdict: redirect,
					in: back(fromA, podA, 8080, packet.ACK), out: back(toRouter, vip, 80, packet.ACK)},
			}
			n.steps([]step{
				{name: "begins by the other node", program: "tc_uplink_in", verdict: redirect,
					in: there(fromPeer, podA, 8080, packet.SYN), out: there(toA, podA, 8080, packet.SYN)},
				{name: "answered", program: "tc_pod_in", verdict: redirect,
					in: back(fromA, podA, 8080, packet.SYN|packet.ACK), out: back(toPeer, podA, 8080, packet.SYN|packet.ACK)},
			})
			for range 2 { // twice: once it is confirmed, and at once
				n.steps(byPeer)
				n.steps(byPeer)
				n.steps(here)
				n.steps(here)
			}
		})
	}
}

// Another connection of the same client's port, by another node's frontend, takes
// no other's place.
func TestAddressClash(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
	syn := packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN}
	n.run("tc_uplink_in", packet.Build(fromPeer, packet.IPv4{Src: client, Dst: podA}, syn))
	r := n.run("tc_uplink_in", packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}))
	if port := uint16(r.frame[34])<<8 | uint16(r.frame[35]); r.verdict != redirect || port == 4000 {
		t.Errorf("verdict %s from port %d, want another port", verdictName(r.verdict), port)
	}
	answer := packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}
	n.steps([]step{{name: "answer to the first", program: "tc_pod_in", verdict: redirect,
		in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, answer),
		out: packet.Build(toPeer, packet.IPv4{Src: podA, Dst: client}, answer)}})
}
