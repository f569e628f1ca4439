// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
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
				n.claimed()
				n.steps(byPeer)
				n.steps(byPeer)
				n.announce(vip, 0)
				n.claimed()
				n.steps(here)
				n.steps(here)
				n.yields()
			}
		})
	}
}

// claimed has a node claim an address.
func (n *node) claimed() { n.put("moved", uint32(objects.MapMoveMOVE_CLAIMED), n.ticks()) }

// yields has the node answer for the Service's address no more.
func (n *node) yields() {
	n.t.Helper()
	if err := n.maps["announced"].Delete(objects.MapAnnouncedKey{Addr: objects.Addr(vip), Ifindex: here}); err != nil {
		n.t.Fatal(err)
	}
}

// What a node says on the wire of a Service's address that has come to it, and
// nothing else, counts as a move.
func TestClaims(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
	n.service(2, service{addr: vip6, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA6, 8080)}})
	arp := func(mac packet.MAC, addr netip.Addr) []byte {
		return packet.Build(packet.Eth{Src: mac, Dst: broadcast}, packet.ARP{Op: packet.ARPRequest, SenderMAC: mac, SenderIP: addr, TargetIP: addr})
	}
	na := func(mac packet.MAC, addr netip.Addr) []byte {
		return packet.Build(packet.Eth{Src: mac, Dst: packet.MAC{0x33, 0x33, 0, 0, 0, 1}},
			packet.IPv6{Src: addr, Dst: netip.MustParseAddr("ff02::1"), HopLimit: 255},
			packet.NDP{Type: packet.NeighborAdvertisement, Flags: 0x20000000, Target: addr, LinkAddr: mac})
	}
	for _, tt := range []struct {
		name, program string
		frame         []byte
		counts        bool
	}{
		{"a stranger's", "tc_uplink_in", arp(routerMAC, vip), false},
		{"a node's, of its own address", "tc_uplink_in", arp(peerMAC, nodeB), false},
		{"a node's", "tc_uplink_in", arp(peerMAC, vip), true},
		{"a node's, v6", "tc_uplink_in", na(peerMAC, vip6), true},
		{"our own, of what we don't answer for", "tc_uplink_out", arp(nicMAC, vip), false},
		{"our own", "tc_uplink_out", arp(nicMAC, vip), true},
		{"our own, v6", "tc_uplink_out", na(nicMAC, vip6), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.program == "tc_uplink_out" && tt.counts {
				n.announce(vip, 0)
				n.announce(vip6, 0)
			}
			n.put("moved", uint32(objects.MapMoveMOVE_CLAIMED), uint32(0))
			n.in(t).want(n.run(tt.program, tt.frame), pass, tt.frame)
			var at uint32
			if err := n.maps["moved"].Lookup(uint32(objects.MapMoveMOVE_CLAIMED), &at); err != nil || (at != 0) != tt.counts {
				t.Errorf("claimed at %d, %v, want that it counts: %v", at, err, tt.counts)
			}
		})
	}
}

// One client port to two frontends of two nodes with one backend, in either order,
// and to the frontends of two other nodes: the second flow gets another source
// port at the backend, and its answers find back.
func TestOnePortByTwoNodes(t *testing.T) {
	third := packet.MAC{2, 0, 0, 0, 2, 3}
	fromThird, toThird := packet.Eth{Src: third, Dst: nicMAC}, packet.Eth{Src: nicMAC, Dst: third}
	for _, proto := range []string{"tcp", "udp"} {
		layer := func(src, dst uint16, flags uint8) packet.Layer {
			if proto == "udp" {
				return packet.UDP{Src: src, Dst: dst}
			}
			return packet.TCP{Src: src, Dst: dst, Flags: flags}
		}
		here := way{fromRouter, toRouter, vip, 80}
		first, second := way{fromPeer, toPeer, podA, 8080}, way{fromThird, toThird, podA, 8080}
		for _, tt := range []struct {
			name          string
			first, second way
		}{
			{"a node's, then ours", first, here},
			{"ours, then a node's", here, first},
			{"two nodes'", first, second},
		} {
			t.Run(proto+" "+tt.name, func(t *testing.T) {
				n := newNode(t)
				n.put("peers", objects.MapPeerKey{Ifindex: uint32(1), Mac: third}, objects.MapPeer{Node: objects.Addr(nodeC)})
				n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
				n.service(2, service{addr: vip, port: 80, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA, 8080)}})
				n.announce(vip, 0)
				ask := func(w way, flags uint8) uint16 {
					t.Helper()
					r := n.run("tc_uplink_in", packet.Build(w.in, packet.IPv4{Src: client, Dst: w.addr}, layer(4000, w.port, flags)))
					port := uint16(r.frame[34])<<8 | uint16(r.frame[35])
					n.in(t).want(r, redirect, packet.Build(toA, packet.IPv4{Src: client, Dst: podA}, layer(port, 8080, flags)))
					return port
				}
				answer := func(w way, port uint16, flags uint8) {
					t.Helper()
					n.in(t).want(n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, layer(8080, port, flags))), redirect,
						packet.Build(w.out, packet.IPv4{Src: w.addr, Dst: client}, layer(w.port, 4000, flags)))
				}
				one, two := ask(tt.first, packet.SYN), ask(tt.second, packet.SYN)
				if one != 4000 || two == 4000 {
					t.Fatalf("the flows' ports are %d and %d, want 4000 and another", one, two)
				}
				answer(tt.first, one, packet.SYN|packet.ACK)
				answer(tt.second, two, packet.SYN|packet.ACK)
				for range 3 {
					if got := ask(tt.second, packet.ACK); got != two {
						t.Errorf("the second flow's next packet is from port %d, want %d", got, two)
					}
					if got := ask(tt.first, packet.ACK); got != one {
						t.Errorf("the first flow's next packet is from port %d, want %d", got, one)
					}
					answer(tt.second, two, packet.ACK)
					answer(tt.first, one, packet.ACK)
				}
			})
		}
	}
}

// way is how a client's packets come to node a, and by which frontend.
type way struct {
	in, out packet.Eth
	addr    netip.Addr
	port    uint16
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
