// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// cut returns the lowest free block for a node out of the best pool, an invalid
// one if no pool has such addresses for it.
func (p *planner) cut(node string, d demand) (Block, error) {
	var full []string
	for _, pool := range d.pools {
		if !pool.gives(node) {
			continue
		}
		for _, r := range pool.Ranges {
			if r.Prefix.Addr().Is4() != d.is4 {
				continue
			}
			if prefix, ok := p.freeBlock(r, pool.Never); ok {
				return Block{Pool: pool.Name, Node: node, Prefix: prefix}, nil
			}
			full = append(full, fmt.Sprintf("pool %s %s", pool.Name, r.Prefix))
		}
		for _, r := range pool.Singles {
			if r.First.Is4() != d.is4 {
				continue
			}
			if addr, ok := p.freeAddr(r, pool.Never); ok {
				return Block{Pool: pool.Name, Node: node, Prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
			}
			full = append(full, fmt.Sprintf("pool %s %s", pool.Name, r))
		}
	}
	if len(full) == 0 {
		return Block{}, nil
	}
	return Block{}, fmt.Errorf("%w: %v", ErrExhausted, full)
}

// freeBlock returns the lowest block of a range that overlaps nothing and has an
// address to give.
func (p *planner) freeBlock(r Range, never []ipam.Range) (netip.Prefix, bool) {
	for at := r.Prefix.Masked().Addr(); at.IsValid() && r.Prefix.Contains(at); {
		block := netip.PrefixFrom(at, r.Bits)
		i := slices.IndexFunc(p.taken, func(t netip.Prefix) bool { return t.Overlaps(block) })
		if i < 0 && !covered(block, never) {
			return block, true
		}
		next := block
		if i >= 0 && p.taken[i].Bits() < r.Bits {
			next = p.taken[i] // pass over all of it at once
		}
		at = ipam.PrefixRange(next).Last.Next()
	}
	return netip.Prefix{}, false
}

// freeAddr returns the lowest address of a range that is nobody's.
func (p *planner) freeAddr(r ipam.Range, never []ipam.Range) (netip.Addr, bool) {
	for at := r.First; r.Contains(at); {
		var next netip.Addr
		if i := slices.IndexFunc(never, func(o ipam.Range) bool { return o.Contains(at) }); i >= 0 {
			next = never[i].Last
		} else if i := slices.IndexFunc(p.taken, func(t netip.Prefix) bool { return t.Contains(at) }); i >= 0 {
			next = ipam.PrefixRange(p.taken[i]).Last
		} else {
			return at, true
		}
		at = next.Next()
	}
	return netip.Addr{}, false
}

// Size returns how many addresses the pool has, at most 2⁶⁴-1: all of its ranges
// but those that are never given.
func (o Pool) Size() uint64 {
	var total uint64
	ranges := slices.Clone(o.Singles)
	for _, r := range o.Ranges {
		ranges = append(ranges, ipam.PrefixRange(r.Prefix))
	}
	for _, never := range o.Never {
		var left []ipam.Range
		for _, r := range ranges {
			left = append(left, r.Without(never)...)
		}
		ranges = left
	}
	for _, r := range ranges {
		n := r.Size()
		if total+n < total {
			return math.MaxUint64
		}
		total += n
	}
	return total
}

// covered tells whether one range has all of the block.
func covered(block netip.Prefix, never []ipam.Range) bool {
	all := ipam.PrefixRange(block)
	return slices.ContainsFunc(never, func(n ipam.Range) bool { return n.Contains(all.First) && n.Contains(all.Last) })
}
