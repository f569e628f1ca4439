// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// TCP is a TCP header.
type TCP struct {
	Src, Dst uint16
	Flags    uint8
	Seq, Ack uint32
	// Window of 0 means 65535.
	Window uint16
	// MSS other than 0 adds the maximum segment size option.
	MSS uint16
}

func (t TCP) encode(payload []byte, network addresses, _ Layer) []byte {
	length := 20
	if t.MSS != 0 {
		length = 24
	}
	b := make([]byte, length, length+len(payload))
	binary.BigEndian.PutUint16(b, t.Src)
	binary.BigEndian.PutUint16(b[2:], t.Dst)
	binary.BigEndian.PutUint32(b[4:], t.Seq)
	binary.BigEndian.PutUint32(b[8:], t.Ack)
	b[12] = byte(length / 4 << 4)
	b[13] = t.Flags
	window := t.Window
	if window == 0 {
		window = 65535
	}
	binary.BigEndian.PutUint16(b[14:], window)
	if t.MSS != 0 {
		copy(b[20:], []byte{2, 4, byte(t.MSS >> 8), byte(t.MSS)})
	}
	return network.seal(append(b, payload...), protoTCP, 16)
}

// UDP is a UDP header.
type UDP struct {
	Src, Dst uint16
	// NoChecksum sends the zero checksum that IPv4 and tunnels allow.
	NoChecksum bool
}

func (u UDP) encode(payload []byte, network addresses, _ Layer) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, u.Src)
	binary.BigEndian.PutUint16(b[2:], u.Dst)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	if u.NoChecksum {
		return b
	}
	b = network.seal(b, protoUDP, 6)
	if b[6] == 0 && b[7] == 0 {
		b[6], b[7] = 0xff, 0xff // RFC 768: zero means none
	}
	return b
}

// ICMP is an ICMP header. Rest is its second word: id and sequence of an echo,
// the MTU of fragmentation needed.
type ICMP struct {
	Type, Code uint8
	Rest       uint32
}

func (i ICMP) encode(payload []byte, _ addresses, _ Layer) []byte {
	b := []byte{i.Type, i.Code, 0, 0}
	b = binary.BigEndian.AppendUint32(b, i.Rest)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], checksum(0, b))
	return b
}

// ICMPv6 is an ICMPv6 header; Rest is its second word, the MTU of packet too big.
type ICMPv6 struct {
	Type, Code uint8
	Rest       uint32
}

func (i ICMPv6) encode(payload []byte, network addresses, _ Layer) []byte {
	b := []byte{i.Type, i.Code, 0, 0}
	b = binary.BigEndian.AppendUint32(b, i.Rest)
	return network.seal(append(b, payload...), protoICMPv6, 2)
}

// NDP message types, and the flags of an advertisement.
const (
	NeighborSolicitation  = 135
	NeighborAdvertisement = 136

	NDPSolicited = 0x40000000
	NDPOverride  = 0x20000000
)

// NDP is a neighbour solicitation or advertisement. A LinkAddr other than zero
// goes into the source or the target link-layer address option. Give its IPv6
// header a HopLimit of 255.
type NDP struct {
	Type     uint8
	Flags    uint32
	Target   netip.Addr
	LinkAddr MAC
}

func (n NDP) encode(_ []byte, network addresses, _ Layer) []byte {
	target := n.Target.As16()
	body := target[:]
	if n.LinkAddr != (MAC{}) {
		option := byte(1)
		if n.Type == NeighborAdvertisement {
			option = 2
		}
		body = append(append(body, option, 1), n.LinkAddr[:]...)
	}
	return ICMPv6{Type: n.Type, Rest: n.Flags}.encode(body, network, nil)
}

// Chunk types of SCTP.
const (
	InitChunk  = 1
	DataChunk  = 0
	AbortChunk = 6
)

// SCTP is SCTP's common header; chunks are payload. An INIT has no tag.
type SCTP struct {
	Src, Dst uint16
	Tag      uint32
	// NoChecksum leaves zero, as a sender does whose device makes the checksum.
	NoChecksum bool
}

func (s SCTP) encode(payload []byte, _ addresses, _ Layer) []byte {
	b := make([]byte, 12, 12+len(payload))
	binary.BigEndian.PutUint16(b, s.Src)
	binary.BigEndian.PutUint16(b[2:], s.Dst)
	binary.BigEndian.PutUint32(b[4:], s.Tag)
	b = append(b, payload...)
	if !s.NoChecksum {
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}
