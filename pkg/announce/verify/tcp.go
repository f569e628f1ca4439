// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"encoding/binary"
	"net/netip"
)

// Flags of TCP.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

const (
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 20
	protocolTCP = 6
	hopLimit    = 64
)

// segment is a TCP segment without data.
type segment struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
}

// frame returns the segment as an Ethernet frame.
func (s segment) frame(from, to [6]byte) []byte {
	b := append(append(make([]byte, 0, ethernetLen+ipv6Len+tcpLen), to[:]...), from[:]...)
	if s.src.Addr().Is4() {
		b = binary.BigEndian.AppendUint16(b, etherIPv4)
		header := []byte{0x45, 0, 0, ipv4Len + tcpLen, 0, 0, 0x40, 0, hopLimit, protocolTCP, 0, 0}
		header = append(append(header, s.src.Addr().AsSlice()...), s.dst.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(header[10:], checksum(0, header))
		b = append(b, header...)
	} else {
		b = binary.BigEndian.AppendUint16(b, etherIPv6)
		b = append(b, 0x60, 0, 0, 0, 0, tcpLen, protocolTCP, hopLimit)
		b = append(append(b, s.src.Addr().AsSlice()...), s.dst.Addr().AsSlice()...)
	}
	return append(b, s.encode()...)
}

// encode returns the TCP header.
func (s segment) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, s.src.Port())
	b = binary.BigEndian.AppendUint16(b, s.dst.Port())
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, tcpLen/4<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0)
	sum := uint32(protocolTCP + tcpLen)
	for _, a := range []netip.Addr{s.src.Addr(), s.dst.Addr()} {
		sum = add(sum, a.AsSlice())
	}
	binary.BigEndian.PutUint16(b[16:], checksum(sum, b))
	return b
}

// parseSegment reads a frame with a TCP segment.
func parseSegment(b []byte) (s segment, ok bool) {
	if len(b) < ethernetLen {
		return s, false
	}
	var src, dst netip.Addr
	switch ip := b[ethernetLen:]; binary.BigEndian.Uint16(b[12:]) {
	case etherIPv4:
		if len(ip) < ipv4Len || ip[9] != protocolTCP || int(ip[0]&15)*4 > len(ip) {
			return s, false
		}
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		b = ip[int(ip[0]&15)*4:]
	case etherIPv6:
		if len(ip) < ipv6Len || ip[6] != protocolTCP {
			return s, false
		}
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		b = ip[ipv6Len:]
	default:
		return s, false
	}
	if len(b) < tcpLen {
		return s, false
	}
	port := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	return segment{
		src: netip.AddrPortFrom(src, port(0)), dst: netip.AddrPortFrom(dst, port(2)),
		seq: binary.BigEndian.Uint32(b[4:]), ack: binary.BigEndian.Uint32(b[8:]), flags: b[13],
	}, true
}

// answers tells whether it is the answer to a SYN.
func (s segment) answers(syn segment) bool {
	return s.src == syn.dst && s.dst == syn.src && s.flags&flagACK != 0 && s.ack == syn.seq+1
}

func add(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}

// checksum is the Internet checksum of b, an even number of bytes, on top of sum.
func checksum(sum uint32, b []byte) uint16 {
	sum = add(sum, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
