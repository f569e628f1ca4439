// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"net/netip"
)

// Sighting is what a frame says of an address.
type Sighting struct {
	Addr netip.Addr
	MAC  [6]byte // who says so
	// Probe tells that it asks whether anybody has the address, as one does who
	// wants it; otherwise it says that the address is its own.
	Probe bool
	// Answer tells of a claim that it answers somebody's question.
	Answer bool
}

// Offsets in a frame.
const (
	ethernetLen = 14
	arpLen      = 28
	ipv6Len     = 40
	ndLen       = 24 // without options
)

// Parse returns what a frame says, if it says anything of the kind.
func Parse(b []byte) (Sighting, bool) {
	if len(b) < ethernetLen {
		return Sighting{}, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case EtherARP:
		return parseARP(b[ethernetLen:])
	case EtherIPv6:
		return parseND(b)
	}
	return Sighting{}, false
}

// parseARP: whoever names itself as the sender says that it has the address,
// whatever else the packet is for (RFC 5227, 2.1.1 and 2.4).
func parseARP(b []byte) (Sighting, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint32(b) != 1<<16|0x0800 || b[4] != 6 || b[5] != 4 {
		return Sighting{}, false
	}
	op := binary.BigEndian.Uint16(b[6:])
	if op != ARPRequest && op != ARPReply {
		return Sighting{}, false
	}
	s := Sighting{Addr: netip.AddrFrom4([4]byte(b[14:])), MAC: [6]byte(b[8:]), Answer: op == ARPReply}
	if s.Addr.IsUnspecified() {
		if op != ARPRequest {
			return Sighting{}, false
		}
		s.Addr, s.Probe = netip.AddrFrom4([4]byte(b[24:])), true
	}
	return usable(s)
}

// parseND: an advertisement claims its target, a solicitation its source; one
// without a source probes (RFC 4862, 5.4.3).
func parseND(b []byte) (Sighting, bool) {
	if len(b) < ethernetLen+ipv6Len+ndLen || b[20] != ICMPv6 || b[21] != hopLimit || b[55] != 0 {
		return Sighting{}, false
	}
	src := netip.AddrFrom16([16]byte(b[22:]))
	message := b[ethernetLen+ipv6Len:]
	target := netip.AddrFrom16([16]byte(message[8:]))
	s := Sighting{Addr: target, MAC: [6]byte(b[6:])}
	switch {
	case message[0] == NeighborAdvert:
		s.Answer = message[4]&0x40 != 0
		s.MAC = linkOption(message[ndLen:], optionTargetLayer, s.MAC)
	case message[0] == NeighborSolicitation && src.IsUnspecified():
		s.Probe = true
	case message[0] == NeighborSolicitation:
		s.Addr = src
		s.MAC = linkOption(message[ndLen:], optionSourceLayer, s.MAC)
	default:
		return Sighting{}, false
	}
	return usable(s)
}

// linkOption returns the link-layer address in the options, else what it was.
func linkOption(b []byte, kind byte, mac [6]byte) [6]byte {
	for len(b) >= 8 && b[1] > 0 && int(b[1])*8 <= len(b) {
		if b[0] == kind {
			return [6]byte(b[2:])
		}
		b = b[int(b[1])*8:]
	}
	return mac
}

// usable sorts out what nobody can mean: groups, and nobody.
func usable(s Sighting) (Sighting, bool) {
	if s.MAC[0]&1 != 0 || s.MAC == [6]byte{} || s.Addr.IsMulticast() || s.Addr.IsUnspecified() {
		return Sighting{}, false
	}
	return s, true
}
