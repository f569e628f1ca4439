// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
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

const (
	etherLen          = 14
	etherV4, etherV6  = 0x0800, 0x86dd
	etherVLAN         = 0x8100
	fragmentHeader    = 44
	icmp6Echo         = 128
	icmp6EchoReply    = 129
	icmp6Unreachable  = 1
	icmpUnreachable   = 3
	portUnreachable4  = 3
	portUnreachable6  = 4
	defaultHops       = 64
	fragmentOffsetMax = 0x1fff
)

// Fragment makes a packet one fragment of a larger one.
type Fragment struct {
	ID     uint32
	Offset int // in bytes, a multiple of 8
	More   bool
}

// frame builds the packet's bytes.
func (p Packet) frame() ([]byte, error) {
	if p.Frame != nil {
		return p.Frame, nil
	}
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if !src.IsValid() || src.Is4() != dst.Is4() {
		return nil, fmt.Errorf("packet from %s to %s: want two addresses of one family", src, dst)
	}
	payload, proto, err := p.transport()
	if err != nil {
		return nil, err
	}
	b := append(append([]byte(nil), p.DstMAC[:]...), p.SrcMAC[:]...)
	ttl := p.TTL
	if ttl == 0 {
		ttl = defaultHops
	}
	if src.Is4() {
		return append(binary.BigEndian.AppendUint16(b, etherV4), p.v4(payload, proto, ttl)...), nil
	}
	return append(binary.BigEndian.AppendUint16(b, etherV6), p.v6(payload, proto, ttl)...), nil
}

func (p Packet) v4(payload []byte, proto Protocol, ttl uint8) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, ttl, byte(proto)
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	if f := p.Fragment; f != nil {
		binary.BigEndian.PutUint16(h[4:], uint16(f.ID))
		offset := uint16(f.Offset/8) & fragmentOffsetMax
		if f.More {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], offset)
	} else if p.DontFragment {
		h[6] = 0x40
	}
	src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
	copy(h[12:], src[:])
	copy(h[16:], dst[:])
	binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
	return append(h, payload...)
}

func (p Packet) v6(payload []byte, proto Protocol, ttl uint8) []byte {
	next := byte(proto)
	if f := p.Fragment; f != nil {
		h := []byte{byte(proto), 0, byte(f.Offset >> 8), byte(f.Offset &^ 7)}
		if f.More {
			h[3] |= 1
		}
		payload = append(binary.BigEndian.AppendUint32(h, f.ID), payload...)
		next = fragmentHeader
	}
	h := make([]byte, 8, 40+len(payload))
	h[0], h[6], h[7] = 0x60, next, ttl
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
	return append(append(append(h, src[:]...), dst[:]...), payload...)
}

// transport builds what is inside the IP header.
func (p Packet) transport() ([]byte, Protocol, error) {
	proto := p.Proto
	if proto == ICMP && p.Src.Addr().Is6() {
		proto = ICMPv6
	}
	b := binary.BigEndian.AppendUint16(nil, p.Src.Port())
	b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
	at := 0
	switch proto {
	case TCP:
		flags := p.Flags
		if flags == 0 {
			flags = SYN
		}
		b = append(b, make([]byte, 16)...)
		b[12], b[13], b[14], b[15] = 5<<4, flags, 0xff, 0xff
		at = 16
	case UDP:
		b = binary.BigEndian.AppendUint16(b, uint16(8+p.Length))
		b = append(b, 0, 0)
		at = 6
	case SCTP:
		b = append(b, make([]byte, 8)...)
	case ICMP, ICMPv6:
		var err error
		if b, err = p.icmp(proto); err != nil {
			return nil, 0, err
		}
		at = 2
	default:
		return nil, 0, fmt.Errorf("packet of protocol %d: %w", proto, errors.ErrUnsupported)
	}
	b = append(b, make([]byte, p.Length)...)
	if p.Fragment != nil && p.Fragment.Offset > 0 {
		return make([]byte, max(8, p.Length)), proto, nil // no header of its own
	}
	if at > 0 {
		p.seal(b, proto, at)
	}
	return b, proto, nil
}

// icmp builds an echo request, or port unreachable that quotes a packet.
func (p Packet) icmp(proto Protocol) ([]byte, error) {
	kind, code := byte(ICMPEcho), byte(0)
	if proto == ICMPv6 {
		kind = icmp6Echo
	}
	if p.Quote == nil {
		id := p.Src.Port()
		return []byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, nil
	}
	kind, code = icmpUnreachable, portUnreachable4
	if proto == ICMPv6 {
		kind, code = icmp6Unreachable, portUnreachable6
	}
	quoted, err := p.Quote.frame()
	if err != nil {
		return nil, fmt.Errorf("quoted packet: %w", err)
	}
	return append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quoted[etherLen:]...), nil
}

// seal puts the checksum at its place.
func (p Packet) seal(b []byte, proto Protocol, at int) {
	start := uint32(0)
	if proto != ICMP {
		start = uint32(proto) + uint32(len(b))
		for _, a := range []netip.Addr{p.Src.Addr(), p.Dst.Addr()} {
			start += uint32(sum(0, a.AsSlice()))
		}
	}
	check := ^sum(start, b)
	if check == 0 && proto == UDP {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], check)
}

// sum is the Internet checksum's sum of b on top of start, folded.
func sum(start uint32, b []byte) uint16 {
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

// Header is what a frame says of itself, as far as it can be read.
type Header struct {
	SrcMAC, DstMAC [6]byte
	Src, Dst       netip.AddrPort
	Proto          Protocol
	TTL            uint8
	Flags          uint8 // TCP's
	Type, Code     uint8 // ICMP's
	Later          bool  // a fragment without a transport header
	Length         int   // of the frame
}

// ReadHeader reads a frame's headers. What isn't plain IP has no addresses.
func ReadHeader(frame []byte) Header {
	h := Header{Length: len(frame)}
	if len(frame) < etherLen {
		return h
	}
	copy(h.DstMAC[:], frame)
	copy(h.SrcMAC[:], frame[6:])
	kind, ip := binary.BigEndian.Uint16(frame[12:]), frame[etherLen:]
	if kind == etherVLAN && len(ip) > 4 {
		kind, ip = binary.BigEndian.Uint16(ip[2:]), ip[4:]
	}
	var src, dst netip.Addr
	var rest []byte
	switch {
	case kind == etherV4 && len(ip) >= 20 && len(ip) >= int(ip[0]&15)*4:
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		h.Proto, h.TTL, h.Later = Protocol(ip[9]), ip[8], binary.BigEndian.Uint16(ip[6:])&fragmentOffsetMax != 0
		rest = ip[int(ip[0]&15)*4:]
	case kind == etherV6 && len(ip) >= 40:
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		h.Proto, h.TTL, rest = Protocol(ip[6]), ip[7], ip[40:]
		if h.Proto == fragmentHeader && len(rest) >= 8 {
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
