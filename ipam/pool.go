// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// Pool is what one address is chosen from. Make it with NewPool.
type Pool struct {
	Name    string // what the store keeps the cursor under
	Subnets []Subnet
	spans   []Range // what may be given: disjoint, in order
}

// NewPool checks the subnets and returns the pool of them. Its errors match
// ErrInvalid: subnets of different families, ranges that overlap, a range with
// nothing left in it.
func NewPool(name string, subnets ...Subnet) (Pool, error) {
	pool := Pool{Name: name, Subnets: subnets}
	if len(subnets) == 0 {
		return Pool{}, fmt.Errorf("%w: pool %s has no subnet", ErrInvalid, name)
	}
	usable := make([]Range, len(subnets))
	for i, s := range subnets {
		r, err := s.usable()
		if err != nil {
			return Pool{}, fmt.Errorf("pool %s: %w", name, err)
		}
		if r.First.BitLen() != usable[0].First.BitLen() && i > 0 {
			return Pool{}, fmt.Errorf("%w: pool %s mixes families: %s and %s", ErrInvalid, name, subnets[0].Prefix, s.Prefix)
		}
		for _, earlier := range usable[:i] {
			if r.Overlaps(earlier) {
				return Pool{}, fmt.Errorf("%w: pool %s: range %s overlaps range %s", ErrInvalid, name, r, earlier)
			}
		}
		usable[i] = r
		spans, err := s.spans()
		if err != nil {
			return Pool{}, fmt.Errorf("pool %s: %w", name, err)
		}
		pool.spans = append(pool.spans, spans...)
	}
	slices.SortFunc(pool.spans, func(a, b Range) int { return a.First.Compare(b.First) })
	return pool, nil
}

// CheckPools returns an error that matches ErrInvalid if an address could be
// given by two of the pools. It names both ranges.
func CheckPools(pools []Pool) error {
	for i, p := range pools {
		for _, q := range pools[:i] {
			if a, b, ok := overlap(q.spans, p.spans); ok {
				return fmt.Errorf("%w: range %s of pool %s overlaps range %s of pool %s", ErrInvalid, b, p.Name, a, q.Name)
			}
		}
	}
	return nil
}

func overlap(left, right []Range) (Range, Range, bool) {
	for _, a := range left {
		for _, b := range right {
			if a.Overlaps(b) {
				return a, b, true
			}
		}
	}
	return Range{}, Range{}, false
}

// Contains reports whether the pool may give the address.
func (p Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.spans, func(r Range) bool { return r.Contains(a) })
}

// Is4 reports whether the pool's addresses are IPv4.
func (p Pool) Is4() bool { return p.spans[0].First.Is4() }

// Subnet returns the pool's subnet that has the address.
func (p Pool) Subnet(a netip.Addr) (Subnet, bool) {
	for _, s := range p.Subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// Size returns how many addresses the pool may give, at most 2⁶⁴-1.
func (p Pool) Size() uint64 {
	var total uint64
	for _, r := range p.spans {
		n := r.Size()
		if total > math.MaxUint64-n {
			return math.MaxUint64
		}
		total += n
	}
	return total
}

// String returns the ranges of the pool.
func (p Pool) String() string { return fmt.Sprint(p.spans) }

// after returns the pool's next address behind a, and the first one behind the
// last. Any a will do, also an invalid one or one outside the pool.
func (p Pool) after(a netip.Addr) netip.Addr {
	for _, r := range p.spans {
		if !a.IsValid() || a.Less(r.First) {
			return r.First
		}
		if a.Less(r.Last) {
			return a.Next()
		}
	}
	return p.spans[0].First
}
