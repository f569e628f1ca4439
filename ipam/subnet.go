// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrInvalid is matched by the errors of contradictory pools.
var ErrInvalid = errors.New("invalid range")

// Subnet describes a part of a pool as it is configured. Only Prefix must be
// set. First and Last default to the subnet's usable ends: neither its own
// address nor, in IPv4, the broadcast address; a subnet of one or two
// addresses is used whole.
type Subnet struct {
	Prefix  netip.Prefix
	First   netip.Addr
	Last    netip.Addr
	Gateway netip.Addr     // never given
	Exclude []netip.Prefix // never given
}

// usable returns the addresses between First and Last, defaults filled in.
func (s Subnet) usable() (Range, error) {
	if !s.Prefix.IsValid() {
		return Range{}, fmt.Errorf("%w: no subnet", ErrInvalid)
	}
	if s.Prefix.Addr().Is4In6() {
		return Range{}, fmt.Errorf("%w: subnet %s is IPv4 written as IPv6", ErrInvalid, s.Prefix)
	}
	if s.Prefix != s.Prefix.Masked() {
		return Range{}, fmt.Errorf("%w: subnet %s has host bits set, the subnet is %s", ErrInvalid, s.Prefix, s.Prefix.Masked())
	}
	r := s.defaults()
	for _, end := range []struct {
		name  string
		given netip.Addr
		put   *netip.Addr
	}{{"first", s.First, &r.First}, {"last", s.Last, &r.Last}, {"gateway", s.Gateway, nil}} {
		if !end.given.IsValid() {
			continue
		}
		if !s.Prefix.Contains(end.given) {
			return Range{}, fmt.Errorf("%w: %s address %s is outside the subnet %s", ErrInvalid, end.name, end.given, s.Prefix)
		}
		if end.put != nil {
			*end.put = end.given
		}
	}
	if r.Last.Less(r.First) {
		return Range{}, fmt.Errorf("%w: in subnet %s the first address %s is behind the last, %s", ErrInvalid, s.Prefix, r.First, r.Last)
	}
	return r, nil
}

// GatewayOrFirst returns the gateway, or the first usable address of a subnet
// without one: the custom of bridges. Too small a subnet has none.
func (s Subnet) GatewayOrFirst() netip.Addr {
	if s.Gateway.IsValid() || !s.Prefix.IsValid() || s.Prefix.Addr().BitLen()-s.Prefix.Bits() < 2 {
		return s.Gateway
	}
	return s.defaults().First
}

// defaults returns the addresses that hosts of the subnet may have.
func (s Subnet) defaults() Range {
	r := PrefixRange(s.Prefix)
	if s.Prefix.Addr().BitLen()-s.Prefix.Bits() < 2 {
		return r
	}
	r.First = r.First.Next()
	if r.Last.Is4() {
		r.Last = r.Last.Prev()
	}
	return r
}

// spans returns the addresses that may be given, as disjoint ranges in order.
func (s Subnet) spans() ([]Range, error) {
	usable, err := s.usable()
	if err != nil {
		return nil, err
	}
	never := make([]Range, 0, len(s.Exclude)+1)
	for _, p := range s.Exclude {
		if !p.IsValid() || p.Addr().BitLen() != s.Prefix.Addr().BitLen() {
			return nil, fmt.Errorf("%w: exclusion %s is of another family than the subnet %s", ErrInvalid, p, s.Prefix)
		}
		never = append(never, PrefixRange(p))
	}
	if s.Gateway.IsValid() {
		never = append(never, Range{s.Gateway, s.Gateway})
	}
	left := []Range{usable}
	for _, o := range never {
		var next []Range
		for _, r := range left {
			next = append(next, r.Without(o)...)
		}
		left = next
	}
	if len(left) == 0 {
		return nil, fmt.Errorf("%w: nothing is left of %s in subnet %s after exclusions and gateway", ErrInvalid, usable, s.Prefix)
	}
	return left, nil
}
