// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

const (
	icmp6Echo        = 128
	icmp6EchoReply   = 129
	icmp6Solicit     = 135
	icmp6Unreachable = 1
	icmpUnreachable  = 3
	portUnreachable4 = 3
	portUnreachable6 = 4
	defaultHops      = 64
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
		return append(binary.BigEndian.AppendUint16(b, headers.EtherIPv4), p.v4(payload, proto, ttl)...), nil
	}
	return append(binary.BigEndian.AppendUint16(b, headers.EtherIPv6), p.v6(payload, proto, ttl)...), nil
}

func (p Packet) v4(payload []byte, proto headers.Protocol, ttl uint8) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, ttl, byte(proto)
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	if f := p.Fragment; f != nil {
		binary.BigEndian.PutUint16(h[4:], uint16(f.ID))
		offset := uint16(f.Offset/8) & headers.FragmentOffset
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
	binary.BigEndian.PutUint16(h[10:], ^headers.Sum(0, h))
	return append(h, payload...)
}

func (p Packet) v6(payload []byte, proto headers.Protocol, ttl uint8) []byte {
	next := byte(proto)
	if f := p.Fragment; f != nil {
		h := []byte{byte(proto), 0, byte(f.Offset >> 8), byte(f.Offset &^ 7)}
		if f.More {
			h[3] |= 1
		}
		payload = append(binary.BigEndian.AppendUint32(h, f.ID), payload...)
		next = headers.FragmentHeader
	}
	h := make([]byte, 8, 40+len(payload))
	h[0], h[6], h[7] = 0x60, next, ttl
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
	return append(append(append(h, src[:]...), dst[:]...), payload...)
}

// transport builds what is inside the IP header.
func (p Packet) transport() ([]byte, headers.Protocol, error) {
	proto := p.Proto
	if proto == headers.ICMP && p.Src.Addr().Is6() {
		proto = headers.ICMPv6
	}
	b := binary.BigEndian.AppendUint16(nil, p.Src.Port())
	b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
	at := 0
	switch proto {
	case headers.TCP:
		flags := p.Flags
		if flags == 0 {
			flags = headers.SYN
		}
		b = append(b, make([]byte, 16)...)
		b[12], b[13], b[14], b[15] = 5<<4, flags, 0xff, 0xff
		at = 16
	case headers.UDP:
		b = binary.BigEndian.AppendUint16(b, uint16(8+p.Length))
		b = append(b, 0, 0)
		at = 6
	case headers.SCTP:
		b = append(b, make([]byte, 8)...)
	case headers.ICMP, headers.ICMPv6:
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
func (p Packet) icmp(proto headers.Protocol) ([]byte, error) {
	kind, code := byte(headers.ICMPEcho), byte(0)
	if proto == headers.ICMPv6 {
		kind = icmp6Echo
	}
	if p.Quote == nil {
		id := p.Src.Port()
		return []byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, nil
	}
	kind, code = icmpUnreachable, portUnreachable4
	if proto == headers.ICMPv6 {
		kind, code = icmp6Unreachable, portUnreachable6
	}
	quoted, err := p.Quote.frame()
	if err != nil {
		return nil, fmt.Errorf("quoted packet: %w", err)
	}
	return append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quoted[headers.EtherLen:]...), nil
}

// seal puts the checksum at its place.
func (p Packet) seal(b []byte, proto headers.Protocol, at int) {
	start := uint32(0)
	if proto != headers.ICMP {
		start = uint32(proto) + uint32(len(b))
		for _, a := range []netip.Addr{p.Src.Addr(), p.Dst.Addr()} {
			start += uint32(headers.Sum(0, a.AsSlice()))
		}
	}
	check := ^headers.Sum(start, b)
	if check == 0 && proto == headers.UDP {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], check)
}

// Solicit is a frame that asks who has an address: ARP, or neighbour discovery.
func Solicit(mac [6]byte, src, dst netip.Addr) []byte {
	everybody := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if src.Is4() {
		b := append(append(everybody[:], mac[:]...), headers.EtherARP>>8, headers.EtherARP&0xff, 0, 1, 8, 0, 6, 4, 0, headers.ARPRequest)
		b = append(append(b, mac[:]...), src.AsSlice()...)
		return append(append(b, make([]byte, 6)...), dst.AsSlice()...)
	}
	to := dst.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: to[13], 14: to[14], 15: to[15]})
	ask := append([]byte{icmp6Solicit, 0, 0, 0, 0, 0, 0, 0}, to[:]...)
	ask = append(append(ask, 1, 1), mac[:]...) // the option with the asker's link-layer address
	p := Packet{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(group, 0)}
	p.seal(ask, headers.ICMPv6, 2)
	b := append([]byte{0x33, 0x33, 0xff, to[13], to[14], to[15]}, mac[:]...)
	return append(append(b, headers.EtherIPv6>>8, headers.EtherIPv6&0xff), p.v6(ask, headers.ICMPv6, 255)...)
}
