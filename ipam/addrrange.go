// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
)

// Range is the addresses from First to Last, both included and of one family.
type Range struct{ First, Last netip.Addr }

// PrefixRange returns all addresses of a prefix.
func PrefixRange(p netip.Prefix) Range {
	return Range{First: p.Masked().Addr(), Last: lastAddr(p)}
}

// Contains reports whether the range has the address.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Overlaps reports whether the ranges have an address in common.
func (r Range) Overlaps(o Range) bool {
	return r.First.BitLen() == o.First.BitLen() && r.First.Compare(o.Last) <= 0 && o.First.Compare(r.Last) <= 0
}

// String returns "first-last".
func (r Range) String() string { return fmt.Sprintf("%s-%s", r.First, r.Last) }

// Without returns what is left of r without the addresses of o, in order.
func (r Range) Without(o Range) []Range {
	if !r.Overlaps(o) {
		return []Range{r}
	}
	var left []Range
	if r.First.Less(o.First) {
		left = append(left, Range{r.First, o.First.Prev()})
	}
	if o.Last.Less(r.Last) {
		left = append(left, Range{o.Last.Next(), r.Last})
	}
	return left
}

// Size returns the number of addresses, at most 2⁶⁴-1.
func (r Range) Size() uint64 {
	first, last := r.First.As16(), r.Last.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(last[8:]), binary.BigEndian.Uint64(first[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(last[:8]), binary.BigEndian.Uint64(first[:8]), borrow)
	if high > 0 || low == math.MaxUint64 {
		return math.MaxUint64
	}
	return low + 1
}

// lastAddr returns the prefix's address with all host bits set.
func lastAddr(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}
