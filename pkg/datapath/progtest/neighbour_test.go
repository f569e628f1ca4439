// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

var (
	broadcast = packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	neighbour = netip.MustParseAddr("192.168.1.77")
)

func (n *node) announce(a netip.Addr, expires uint64) {
	n.t.Helper()
	n.put("announced", objects.MapAnnouncedKey{Addr: objects.Addr(a), Ifindex: here}, objects.MapAnnounced{Expires: expires})
}

func TestARP(t *testing.T) {
	n := newNode(t)
	request := func(sender, target netip.Addr) []byte {
		return packet.Build(packet.Eth{Src: routerMAC, Dst: broadcast},
			packet.ARP{Op: packet.ARPRequest, SenderMAC: routerMAC, SenderIP: sender, TargetIP: target})
	}
	reply := func(to netip.Addr) []byte {
		return packet.Build(toRouter, packet.ARP{Op: packet.ARPReply, SenderMAC: nicMAC, SenderIP: vip, TargetMAC: routerMAC, TargetIP: to})
	}
	claim := func(mac packet.MAC) []byte {
		return packet.Build(packet.Eth{Src: mac, Dst: broadcast},
			packet.ARP{Op: packet.ARPRequest, SenderMAC: mac, SenderIP: vip, TargetIP: vip})
	}
	unknown := request(neighbour, vip)
	n.steps([]step{{name: "not announced", program: "tc_uplink_in", in: unknown, verdict: pass}})
	n.announce(vip, 1)
	n.steps([]step{{name: "expired", program: "tc_uplink_in", in: unknown, verdict: pass}})
	n.announce(vip, 0)
	probe := netip.IPv4Unspecified()
	n.steps([]step{
		{name: "announced", program: "tc_uplink_in", in: unknown, verdict: redirect, out: reply(neighbour)},
		{name: "probe", program: "tc_uplink_in", in: request(probe, vip), verdict: redirect, out: reply(probe)},
		{name: "for another", program: "tc_uplink_in", in: request(neighbour, nodeA), verdict: pass},
		{name: "a stranger's claim", program: "tc_uplink_in", in: claim(routerMAC), verdict: pass},
		{name: "still announced", program: "tc_uplink_in", in: unknown, verdict: redirect, out: reply(neighbour)},
		{name: "another node's claim", program: "tc_uplink_in", in: claim(peerMAC), verdict: pass},
		{name: "given up", program: "tc_uplink_in", in: unknown, verdict: pass},
	})
}

func TestNeighbourDiscovery(t *testing.T) {
	n := newNode(t)
	n.announce(vip6, 0)
	group := netip.MustParseAddr("ff02::1:ff00:200")
	all := netip.MustParseAddr("ff02::1")
	asker := netip.MustParseAddr("fd00:1::77")
	solicit := func(src netip.Addr, link packet.MAC) []byte {
		return packet.Build(packet.Eth{Src: routerMAC, Dst: packet.MAC{0x33, 0x33, 0xff, 0, 2, 0}},
			packet.IPv6{Src: src, Dst: group, HopLimit: 255},
			packet.NDP{Type: packet.NeighborSolicitation, Target: vip6, LinkAddr: link})
	}
	advert := func(eth packet.Eth, dst netip.Addr, flags uint32, link packet.MAC) []byte {
		return packet.Build(eth, packet.IPv6{Src: vip6, Dst: dst, HopLimit: 255},
			packet.NDP{Type: packet.NeighborAdvertisement, Flags: flags, Target: vip6, LinkAddr: link})
	}
	answer := advert(toRouter, asker, packet.NDPSolicited|packet.NDPOverride, nicMAC)
	toAll := packet.Eth{Src: nicMAC, Dst: packet.MAC{0x33, 0x33, 0, 0, 0, 1}}
	n.steps([]step{
		{name: "announced", program: "tc_uplink_in", in: solicit(asker, routerMAC), verdict: redirect, out: answer},
		{name: "duplicate address detection", program: "tc_uplink_in", in: solicit(netip.IPv6Unspecified(), packet.MAC{}), verdict: redirect,
			out: advert(toAll, all, packet.NDPOverride, nicMAC)},
		{name: "a stranger's claim", program: "tc_uplink_in", in: advert(packet.Eth{Src: routerMAC, Dst: broadcast}, all, packet.NDPOverride, routerMAC), verdict: pass},
		{name: "still announced", program: "tc_uplink_in", in: solicit(asker, routerMAC), verdict: redirect, out: answer},
		{name: "another node's claim", program: "tc_uplink_in", in: advert(packet.Eth{Src: peerMAC, Dst: broadcast}, all, packet.NDPOverride, peerMAC), verdict: pass},
		{name: "given up", program: "tc_uplink_in", in: solicit(asker, routerMAC), verdict: pass},
	})
}

// The node gets its own answer, but not to a probe.
func TestAsksItself(t *testing.T) {
	n := newNode(t)
	n.announce(vip, 0)
	n.announce(vip6, 0)
	self := netip.MustParseAddr("fd00:1::1")
	p := netip.PrefixFrom(self, 128)
	n.put("routes", objects.MapRouteKey{Prefixlen: objects.Bits(p), Addr: self.As16()}, objects.MapRoute{Kind: kind(objects.MapRouteKindROUTE_SELF)})
	out := packet.Eth{Src: nicMAC, Dst: broadcast}
	arp := func(sender netip.Addr) []byte {
		return packet.Build(out, packet.ARP{Op: packet.ARPRequest, SenderMAC: nicMAC, SenderIP: sender, TargetIP: vip})
	}
	toSelf := packet.Eth{Src: nicMAC, Dst: nicMAC}
	n.steps([]step{
		{name: "ARP", program: "tc_uplink_out", in: arp(nodeA), verdict: redirect,
			out: packet.Build(toSelf, packet.ARP{Op: packet.ARPReply, SenderMAC: nicMAC, SenderIP: vip, TargetMAC: nicMAC, TargetIP: nodeA})},
		{name: "probe", program: "tc_uplink_out", in: arp(netip.IPv4Unspecified()), verdict: pass},
		{name: "gratuitous", program: "tc_uplink_out", in: arp(vip), verdict: pass},
		{name: "solicitation", program: "tc_uplink_out", verdict: redirect,
			in: packet.Build(out, packet.IPv6{Src: self, Dst: netip.MustParseAddr("ff02::1:ff00:200"), HopLimit: 255},
				packet.NDP{Type: packet.NeighborSolicitation, Target: vip6, LinkAddr: nicMAC}),
			out: packet.Build(toSelf, packet.IPv6{Src: vip6, Dst: self, HopLimit: 255},
				packet.NDP{Type: packet.NeighborAdvertisement, Flags: packet.NDPSolicited | packet.NDPOverride, Target: vip6, LinkAddr: nicMAC})},
		{name: "advertisement", program: "tc_uplink_out", verdict: pass,
			in: packet.Build(out, packet.IPv6{Src: vip6, Dst: netip.MustParseAddr("ff02::1"), HopLimit: 255},
				packet.NDP{Type: packet.NeighborAdvertisement, Flags: packet.NDPOverride, Target: vip6, LinkAddr: nicMAC})},
	})
}
