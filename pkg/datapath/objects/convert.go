// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"net/netip"
)

// Addr is the form an address has in maps: 16 bytes, IPv4 as ::ffff:a.b.c.d,
// all zero for none.
func Addr(a netip.Addr) MapAddr {
	if !a.IsValid() {
		return MapAddr{}
	}
	return MapAddr{B: a.As16()}
}

// Netip is the address again; the zero Addr for none.
func (a MapAddr) Netip() netip.Addr {
	if a.B == [16]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a.B).Unmap()
}

// Port turns a port into wire order, or back. Objects are little-endian only.
func Port(p uint16) uint16 { return p<<8 | p>>8 }

// Bits is a prefix's length among the 128 bits of an Addr.
func Bits(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return uint32(96 + p.Bits())
	}
	return uint32(p.Bits())
}

// Prefix is the prefix of the first bits of an Addr.
func Prefix(addr [16]byte, bits uint32) netip.Prefix {
	a := netip.AddrFrom16(addr)
	if a.Is4In6() && bits >= 96 {
		return netip.PrefixFrom(a.Unmap(), int(bits-96))
	}
	return netip.PrefixFrom(a, int(bits))
}
