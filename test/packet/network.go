// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
)

// defaultTTL is the TTL and hop limit of packets that don't name theirs.
const defaultTTL = 64

// IPv4 is an IPv4 header. A TTL of 0 means 64, a Protocol of 0 that of the next layer.
type IPv4 struct {
	Src, Dst netip.Addr
	TTL      uint8
	TOS      uint8
	ID       uint16
	Protocol uint8
	// DF and MF are the don't-fragment and more-fragments flags; Offset is the fragment's, in bytes.
	DF, MF bool
	Offset uint16
	// Options are appended to the fixed header, a multiple of four bytes.
	Options []byte
}

func (p IPv4) encode(payload []byte, _ addresses, next Layer) []byte {
	length := 20 + len(p.Options)
	b := make([]byte, length, length+len(payload))
	b[0] = 4<<4 | byte(length/4)
	b[1] = p.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(length+len(payload)))
	binary.BigEndian.PutUint16(b[4:], p.ID)
	frag := p.Offset / 8
	if p.DF {
		frag |= 0x4000
	}
	if p.MF {
		frag |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], frag)
	b[8] = orDefault(p.TTL)
	b[9] = protocol(p.Protocol, next)
	src, dst := p.Src.As4(), p.Dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	copy(b[20:], p.Options)
	binary.BigEndian.PutUint16(b[10:], checksum(0, b))
	return append(b, payload...)
}

// IPv6 is an IPv6 header. A HopLimit of 0 means 64, a NextHeader of 0 that of the next layer.
type IPv6 struct {
	Src, Dst     netip.Addr
	HopLimit     uint8
	TrafficClass uint8
	NextHeader   uint8
}

func (p IPv6) encode(payload []byte, _ addresses, next Layer) []byte {
	b := make([]byte, 40, 40+len(payload))
	binary.BigEndian.PutUint32(b, 6<<28|uint32(p.TrafficClass)<<20)
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6] = protocol(p.NextHeader, next)
	b[7] = orDefault(p.HopLimit)
	src, dst := p.Src.As16(), p.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return append(b, payload...)
}

// Fragment6 is IPv6's fragment header; put IPv6.NextHeader 44 before it.
type Fragment6 struct {
	NextHeader uint8
	Offset     uint16
	More       bool
	ID         uint32
}

func (f Fragment6) encode(payload []byte, _ addresses, next Layer) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = protocol(f.NextHeader, next)
	offset := f.Offset &^ 7
	if f.More {
		offset |= 1
	}
	binary.BigEndian.PutUint16(b[2:], offset)
	binary.BigEndian.PutUint32(b[4:], f.ID)
	return append(b, payload...)
}

// orDefault returns the TTL, or the default for 0.
func orDefault(ttl uint8) uint8 {
	if ttl == 0 {
		return defaultTTL
	}
	return ttl
}

// protocol returns the given protocol number, or for 0 that of the next layer.
func protocol(given uint8, next Layer) uint8 {
	if given != 0 {
		return given
	}
	switch next.(type) {
	case TCP:
		return protoTCP
	case UDP:
		return protoUDP
	case SCTP:
		return protoSCTP
	case ICMP:
		return protoICMP
	case ICMPv6, NDP:
		return protoICMPv6
	case Fragment6:
		return 44
	}
	return 59 // no next header
}

// checksum is the Internet checksum of b on top of sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudo is the sum over the pseudo header of a transport segment.
func (a addresses) pseudo(proto uint8, length int) uint32 {
	sum := uint32(proto) + uint32(length)
	for _, ip := range []netip.Addr{a.src, a.dst} {
		b := ip.AsSlice()
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	return sum
}

// seal puts the segment's checksum at offset at.
func (a addresses) seal(b []byte, proto uint8, at int) []byte {
	binary.BigEndian.PutUint16(b[at:], checksum(a.pseudo(proto, len(b)), b))
	return b
}
