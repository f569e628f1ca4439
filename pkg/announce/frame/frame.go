// SPDX-License-Identifier: Apache-2.0

// Package frame builds and reads the ARP and neighbour discovery frames by
// which machines say, and ask, who has an address. It is pure; who sends and
// receives is announce's and probe's.
package frame

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of the protocols.
const (
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd

	ARPRequest = 1
	ARPReply   = 2

	ICMPv6               = 58
	NeighborSolicitation = 135
	NeighborAdvert       = 136

	advertOverride    = 0x20
	optionSourceLayer = 1
	optionTargetLayer = 2
	hopLimit          = 255 // a router would have made it less
)

// Announcements returns what tells the network that addr is at mac: for IPv4 a
// gratuitous ARP in both forms, as some listen to one only; for IPv6 an
// unsolicited neighbour advertisement.
func Announcements(addr netip.Addr, mac [6]byte) [][]byte {
	if addr.Is4() {
		a := ARP{Op: ARPRequest, SenderMAC: mac, Sender: addr, Target: addr}
		b := a
		b.Op, b.TargetMAC = ARPReply, mac
		return [][]byte{a.Frame(broadcast()), b.Frame(broadcast())}
	}
	// RFC 4861, 7.2.6: to all nodes, overriding what they know.
	na := append([]byte{NeighborAdvert, 0, 0, 0, advertOverride, 0, 0, 0}, addr.AsSlice()...)
	na = append(append(na, optionTargetLayer, 1), mac[:]...)
	return [][]byte{icmp6(mac, addr, allNodes(), na)}
}

// Probe returns what asks for addr without saying that anybody has it: an ARP
// probe (RFC 5227, 1.1), or the solicitation of duplicate address detection
// (RFC 4862, 5.4.2).
func Probe(addr netip.Addr, mac [6]byte) []byte {
	if addr.Is4() {
		return ARP{Op: ARPRequest, SenderMAC: mac, Sender: netip.IPv4Unspecified(), Target: addr}.Frame(broadcast())
	}
	ns := append([]byte{NeighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, addr.AsSlice()...)
	return icmp6(mac, netip.IPv6Unspecified(), SolicitedNode(addr), ns)
}

// Request returns what a machine that has sender asks when it wants to reach
// addr.
func Request(addr, sender netip.Addr, mac [6]byte) []byte {
	if addr.Is4() {
		return ARP{Op: ARPRequest, SenderMAC: mac, Sender: sender, Target: addr}.Frame(broadcast())
	}
	ns := append([]byte{NeighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, addr.AsSlice()...)
	ns = append(append(ns, optionSourceLayer, 1), mac[:]...)
	return icmp6(mac, sender, SolicitedNode(addr), ns)
}

// ARP is an ARP packet for IPv4 over Ethernet.
type ARP struct {
	Op                   uint16
	SenderMAC, TargetMAC [6]byte
	Sender, Target       netip.Addr
}

// Frame returns the packet as a frame to dst.
func (a ARP) Frame(dst [6]byte) []byte {
	b := ethernet(dst, a.SenderMAC, EtherARP)
	b = binary.BigEndian.AppendUint16(b, 1)      // Ethernet
	b = binary.BigEndian.AppendUint16(b, 0x0800) // IPv4
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, a.Op)
	b = append(append(b, a.SenderMAC[:]...), a.Sender.AsSlice()...)
	return append(append(b, a.TargetMAC[:]...), a.Target.AsSlice()...)
}

// SolicitedNode returns the multicast group in which a machine with addr hears
// who asks for it (RFC 4291, 2.7.1).
func SolicitedNode(addr netip.Addr) netip.Addr {
	group := [16]byte{0xff, 0x02, 11: 0x01, 12: 0xff}
	own := addr.As16()
	copy(group[13:], own[13:])
	return netip.AddrFrom16(group)
}

func allNodes() netip.Addr { return netip.AddrFrom16([16]byte{0xff, 0x02, 15: 1}) }

func broadcast() [6]byte { return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// icmp6 returns a message to a multicast group as a frame.
func icmp6(mac [6]byte, src, group netip.Addr, message []byte) []byte {
	binary.BigEndian.PutUint16(message[2:], checksum(src, group, message))
	g := group.As16()
	b := ethernet([6]byte{0x33, 0x33, g[12], g[13], g[14], g[15]}, mac, EtherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, ICMPv6, hopLimit)
	b = append(append(b, src.AsSlice()...), g[:]...)
	return append(b, message...)
}

func ethernet(dst, src [6]byte, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(dst[:], src[:]...), kind)
}

// checksum is ICMPv6's, over the pseudo-header and the message.
func checksum(src, dst netip.Addr, message []byte) uint16 {
	covered := append(src.AsSlice(), dst.AsSlice()...)
	covered = binary.BigEndian.AppendUint32(covered, uint32(len(message)))
	covered = append(append(covered, 0, 0, 0, ICMPv6), message...)
	var sum uint32
	for i := 0; i+1 < len(covered); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(covered[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}
