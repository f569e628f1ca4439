// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	arpRequest = 1
	arpReply   = 2

	icmpv6            = 58
	neighborAdvert    = 136
	advertOverride    = 0x20
	optionTargetLayer = 2
)

// frames returns what tells the network that addr is at mac: for IPv4 a
// gratuitous ARP in both forms, as some listen to one only; for IPv6 an
// unsolicited neighbour advertisement.
func frames(addr netip.Addr, mac [6]byte) [][]byte {
	if addr.Is4() {
		return [][]byte{gratuitousARP(arpRequest, addr, mac), gratuitousARP(arpReply, addr, mac)}
	}
	return [][]byte{unsolicitedNA(addr, mac)}
}

// gratuitousARP (RFC 5227, 3): sender and target are the address itself.
func gratuitousARP(op uint16, addr netip.Addr, mac [6]byte) []byte {
	broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	target := [6]byte{}
	if op == arpReply {
		target = mac
	}
	b := ethernet(broadcast, mac, etherARP)
	b = binary.BigEndian.AppendUint16(b, 1)      // Ethernet
	b = binary.BigEndian.AppendUint16(b, 0x0800) // IPv4
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, mac[:]...), addr.AsSlice()...)
	return append(append(b, target[:]...), addr.AsSlice()...)
}

// unsolicitedNA (RFC 4861, 7.2.6): to all nodes, overriding what they know.
func unsolicitedNA(addr netip.Addr, mac [6]byte) []byte {
	allNodes := netip.MustParseAddr("ff02::1")
	na := []byte{neighborAdvert, 0, 0, 0, advertOverride, 0, 0, 0}
	na = append(na, addr.AsSlice()...)
	na = append(append(na, optionTargetLayer, 1), mac[:]...)
	binary.BigEndian.PutUint16(na[2:], checksum(addr, allNodes, na))

	b := ethernet([6]byte{0x33, 0x33, 0, 0, 0, 1}, mac, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(na)))
	b = append(b, icmpv6, 255)
	b = append(append(b, addr.AsSlice()...), allNodes.AsSlice()...)
	return append(b, na...)
}

func ethernet(dst, src [6]byte, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(dst[:], src[:]...), kind)
}

// checksum is ICMPv6's, over the pseudo-header and the message.
func checksum(src, dst netip.Addr, message []byte) uint16 {
	covered := append(src.AsSlice(), dst.AsSlice()...)
	covered = binary.BigEndian.AppendUint32(covered, uint32(len(message)))
	covered = append(append(covered, 0, 0, 0, icmpv6), message...)
	var sum uint32
	for i := 0; i+1 < len(covered); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(covered[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}
