// SPDX-License-Identifier: Apache-2.0

// Package headers reads the headers of Ethernet frames, and changes what a router
// and a translation change.
package headers

import (
	"encoding/binary"
	"net/netip"
)

// Protocol is an IP protocol.
type Protocol uint8

// The protocols that a packet can be described with.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// ICMPEcho is an echo request's type, in both families; for IPv6 it is written
// as 128.
const ICMPEcho = 8

// Of Ethernet's header: its length, and the types that are told apart.
const (
	EtherLen  = 14
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100
	EtherIPv6 = 0x86dd
)

// FragmentHeader is the number of IPv6's fragment header.
const FragmentHeader = 44

// FragmentOffset are the bits of IPv4's fragment offset, in units of 8 bytes.
const FragmentOffset = 0x1fff

// Header is what a packet says of itself, as far as it can be read.
type Header struct {
	SrcMAC, DstMAC [6]byte
	Src, Dst       netip.AddrPort
	Proto          Protocol
	TTL            uint8
	Flags          uint8 // TCP's
	Type, Code     uint8 // ICMP's
	Later          bool  // a fragment without a transport header
	Length         int   // of the packet
	ARP            ARP   // what it says if it is ARP
}

// ARP is what an ARP packet says.
type ARP struct {
	Op             uint16 // 0: it is none
	Sender, Target netip.Addr
}

// The operations of ARP.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// Read reads a packet's headers. What isn't plain IP has no addresses.
func Read(packet []byte) Header {
	h := Header{Length: len(packet)}
	if len(packet) < EtherLen {
		return h
	}
	copy(h.DstMAC[:], packet)
	copy(h.SrcMAC[:], packet[6:])
	kind, ip := binary.BigEndian.Uint16(packet[12:]), packet[EtherLen:]
	if kind == EtherVLAN && len(ip) > 4 {
		kind, ip = binary.BigEndian.Uint16(ip[2:]), ip[4:]
	}
	var src, dst netip.Addr
	var rest []byte
	switch {
	case kind == EtherARP && len(ip) >= 28:
		h.ARP = ARP{binary.BigEndian.Uint16(ip[6:]), netip.AddrFrom4([4]byte(ip[14:18])), netip.AddrFrom4([4]byte(ip[24:28]))}
		return h
	case kind == EtherIPv4 && len(ip) >= 20 && ip[0]&15 >= 5 && len(ip) >= int(ip[0]&15)*4:
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		h.Proto, h.TTL, h.Later = Protocol(ip[9]), ip[8], binary.BigEndian.Uint16(ip[6:])&FragmentOffset != 0
		rest = ip[int(ip[0]&15)*4:]
	case kind == EtherIPv6 && len(ip) >= 40:
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		h.Proto, h.TTL, rest = Protocol(ip[6]), ip[7], ip[40:]
		if h.Proto == FragmentHeader && len(rest) >= 8 {
			h.Proto, h.Later, rest = Protocol(rest[0]), binary.BigEndian.Uint16(rest[2:])&^7 != 0, rest[8:]
		}
	default:
		return h
	}
	h.Src, h.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	h.readTransport(rest)
	return h
}

func (h *Header) readTransport(b []byte) {
	if h.Later || len(b) < 8 {
		return
	}
	switch h.Proto {
	case TCP, UDP, SCTP:
		h.Src = netip.AddrPortFrom(h.Src.Addr(), binary.BigEndian.Uint16(b))
		h.Dst = netip.AddrPortFrom(h.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
		if h.Proto == TCP && len(b) >= 14 {
			h.Flags = b[13]
		}
	case ICMP, ICMPv6:
		h.Type, h.Code = b[0], b[1]
	}
}

// Sum is the Internet checksum's sum of b on top of start, folded.
func Sum(start uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

// Forward takes one off the hop limit, as forwarding does.
func Forward(packet []byte) []byte {
	out := append([]byte(nil), packet...)
	if Read(packet).Src.Addr().Is6() {
		out[EtherLen+7]--
		return out
	}
	out[EtherLen+8]--
	return resum(out)
}

// resum makes an IPv4 header's checksum anew.
func resum(packet []byte) []byte {
	ip := packet[EtherLen : EtherLen+int(packet[EtherLen]&15)*4]
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^Sum(0, ip))
	return packet
}

// Rewrite gives a packet other ends; an invalid address and a port of zero stay
// as they are.
func Rewrite(packet []byte, src, dst netip.AddrPort) []byte {
	h, out := Read(packet), append([]byte(nil), packet...)
	at, length, l4 := EtherLen+12, 4, EtherLen+int(packet[EtherLen]&15)*4
	if h.Src.Addr().Is6() {
		at, length, l4 = EtherLen+8, 16, EtherLen+40
	}
	check := map[Protocol]int{TCP: 16, UDP: 6, ICMPv6: 2}[h.Proto]
	sealed := check != 0 && !h.Later && len(out) >= l4+check+2
	for i, end := range []netip.AddrPort{src, dst} {
		if end.Addr().IsValid() {
			copy(out[at+i*length:], end.Addr().AsSlice())
		}
		if end.Port() != 0 && sealed && h.Proto != ICMPv6 {
			binary.BigEndian.PutUint16(out[l4+2*i:], end.Port())
		}
	}
	if h.Src.Addr().Is4() {
		resum(out)
	}
	if !sealed {
		return out
	}
	old := binary.BigEndian.Uint16(out[l4+check:])
	if old == 0 && h.Proto == UDP {
		return out
	}
	diff := uint32(^old)
	for _, part := range [][2]int{{at, at + 2*length}, {l4, l4 + 4}} {
		if part[0] == l4 && h.Proto == ICMPv6 {
			continue // no ports
		}
		diff += uint32(Sum(0, out[part[0]:part[1]])) + uint32(^Sum(0, packet[part[0]:part[1]]))
	}
	for diff > 0xffff {
		diff = diff>>16 + diff&0xffff
	}
	binary.BigEndian.PutUint16(out[l4+check:], ^uint16(diff))
	return out
}
