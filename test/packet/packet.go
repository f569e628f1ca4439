// SPDX-License-Identifier: Apache-2.0

// Package packet builds the frames that tests send and compares the ones they
// get. It is not a parser: what a test reads back it compares with Diff, which
// names the differing fields.
//
//	frame := packet.Build(
//		packet.Eth{Src: clientMAC, Dst: nodeMAC},
//		packet.IPv4{Src: client, Dst: vip},
//		packet.TCP{Src: 40000, Dst: 80, Flags: packet.SYN},
//	)
package packet

import (
	"encoding/binary"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Layer is one header, or the payload.
type Layer interface {
	// encode returns the layer's bytes before payload. network is the enclosing IP header's addresses.
	encode(payload []byte, network addresses, next Layer) []byte
}

// addresses is what a transport checksum covers of the IP header.
type addresses struct {
	src, dst netip.Addr
}

// Build returns the frame made of layers, outermost first, with lengths and
// checksums filled in. Ethernet frames aren't padded.
func Build(layers ...Layer) []byte {
	return build(layers, addresses{})
}

// build encodes layers inside a network layer with those addresses.
func build(layers []Layer, network addresses) []byte {
	if len(layers) == 0 {
		return nil
	}
	inside := network
	switch l := layers[0].(type) {
	case IPv4:
		inside = addresses{l.Src, l.Dst}
	case IPv6:
		inside = addresses{l.Src, l.Dst}
	}
	var next Layer
	if len(layers) > 1 {
		next = layers[1]
	}
	return layers[0].encode(build(layers[1:], inside), network, next)
}

// Payload is the bytes inside the last header.
type Payload []byte

func (p Payload) encode(payload []byte, _ addresses, _ Layer) []byte {
	return append(append([]byte{}, p...), payload...)
}

// Quote returns the first n bytes of a frame's network layer, as ICMP errors
// quote them; n of 0 means all.
func Quote(frame []byte, n int) Payload {
	inner := frame[14:]
	if n > 0 && n < len(inner) {
		inner = inner[:n]
	}
	return Payload(inner)
}

// EtherTypes and IP protocol numbers that the layers fill in.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoSCTP   = 132
	protoICMPv6 = 58
)

// Eth is an Ethernet header. A Type of 0 is taken from the next layer.
type Eth struct {
	Src, Dst MAC
	Type     uint16
}

func (e Eth) encode(payload []byte, _ addresses, next Layer) []byte {
	typ := e.Type
	if typ == 0 {
		switch next.(type) {
		case IPv4:
			typ = etherIPv4
		case IPv6:
			typ = etherIPv6
		case ARP:
			typ = etherARP
		}
	}
	b := append(append([]byte{}, e.Dst[:]...), e.Src[:]...)
	b = binary.BigEndian.AppendUint16(b, typ)
	return append(b, payload...)
}

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP is an ARP packet for IPv4 over Ethernet.
type ARP struct {
	Op                   uint16
	SenderMAC, TargetMAC MAC
	SenderIP, TargetIP   netip.Addr
}

func (a ARP) encode(payload []byte, _ addresses, _ Layer) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, a.Op)
	b = append(b, a.SenderMAC[:]...)
	b = append(b, a.SenderIP.AsSlice()...)
	b = append(b, a.TargetMAC[:]...)
	b = append(b, a.TargetIP.AsSlice()...)
	return append(b, payload...)
}

// VXLAN is a VXLAN header; it goes inside a UDP header, before the inner Eth.
type VXLAN struct {
	VNI uint32
}

func (v VXLAN) encode(payload []byte, _ addresses, _ Layer) []byte {
	b := []byte{0x08, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, v.VNI<<8)
	return append(b, payload...)
}
