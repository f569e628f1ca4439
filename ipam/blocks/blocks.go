// SPDX-License-Identifier: Apache-2.0

// Package blocks decides which nodes give pods addresses out of which blocks of
// the pools for pods. It is pure and remembers nothing: the blocks that exist
// are its input. A node has one block of each family that a pool has for it; it
// keeps its blocks for as long as it is there, whatever becomes of the pool.
package blocks

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// Pool is a set of addresses to cut blocks out of.
type Pool struct {
	Name     string
	Ranges   []Range
	Never    []ipam.Range // never given: a block without any other address is of no use
	Priority int32        // the highest is tried first
	Disabled bool
	Admits   func(node string) bool // nil: every node
}

// Range is a prefix, and the length of the blocks cut out of it.
type Range struct {
	Prefix netip.Prefix
	Bits   int
}

// Node is a node that gets its blocks from us.
type Node struct {
	Name string
	IPv4 bool // it has a range of that family by other means
	IPv6 bool
}

// Block is a part of a pool that a node has.
type Block struct {
	Pool, Node string
	Prefix     netip.Prefix
}

// Input is all that Plan looks at.
type Input struct {
	Pools  []Pool
	Nodes  []Node
	Blocks []Block
	Taken  []netip.Prefix // that no block may overlap: nodes' own ranges and addresses
}

// Result is what to make and what to take away.
type Result struct {
	Create  []Block
	Remove  []Block
	Reasons map[string]error // why a node lacks a block, by node
}

// ErrExhausted is matched by the reason of a node that the pools have no block
// left for.
var ErrExhausted = errors.New("no free block")

// Plan decides. Equal inputs, in any order, give equal results.
func Plan(in Input) Result {
	p := &planner{pools: slices.Clone(in.Pools), taken: slices.Clone(in.Taken)}
	slices.SortFunc(p.pools, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	result := Result{Reasons: map[string]error{}}
	has := map[string][]Block{}
	for _, b := range in.Blocks {
		if slices.ContainsFunc(in.Nodes, func(n Node) bool { return n.Name == b.Node }) {
			has[b.Node] = append(has[b.Node], b)
		} else {
			result.Remove = append(result.Remove, b)
		}
		p.taken = append(p.taken, b.Prefix) // also what is removed: until it is gone
	}
	slices.SortFunc(result.Remove, func(a, b Block) int { return a.Prefix.Compare(b.Prefix) })
	nodes := slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, node := range nodes {
		for _, is4 := range [...]bool{true, false} {
			if node.has(is4) || slices.ContainsFunc(has[node.Name], func(b Block) bool { return b.Prefix.Addr().Is4() == is4 }) {
				continue
			}
			block, err := p.cut(node.Name, is4)
			if err != nil {
				result.Reasons[node.Name] = errors.Join(result.Reasons[node.Name], err)
			}
			if block.Prefix.IsValid() {
				result.Create = append(result.Create, block)
				p.taken = append(p.taken, block.Prefix)
			}
		}
	}
	return result
}

func (n Node) has(is4 bool) bool {
	if is4 {
		return n.IPv4
	}
	return n.IPv6
}

type planner struct {
	pools []Pool // best first
	taken []netip.Prefix
}

// cut returns the lowest free block for a node out of the best pool, an invalid
// one if no pool has such addresses for it.
func (p *planner) cut(node string, is4 bool) (Block, error) {
	var full []string
	for _, pool := range p.pools {
		if pool.Disabled || (pool.Admits != nil && !pool.Admits(node)) {
			continue
		}
		for _, r := range pool.Ranges {
			if r.Prefix.Addr().Is4() != is4 {
				continue
			}
			if prefix, ok := p.free(r, pool.Never); ok {
				return Block{pool.Name, node, prefix}, nil
			}
			full = append(full, fmt.Sprintf("pool %s %s", pool.Name, r.Prefix))
		}
	}
	if len(full) == 0 {
		return Block{}, nil
	}
	return Block{}, fmt.Errorf("%w: %v", ErrExhausted, full)
}

// free returns the lowest block of a range that overlaps nothing and has an
// address to give.
func (p *planner) free(r Range, never []ipam.Range) (netip.Prefix, bool) {
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

// covered tells whether one range has all of the block.
func covered(block netip.Prefix, never []ipam.Range) bool {
	all := ipam.PrefixRange(block)
	return slices.ContainsFunc(never, func(n ipam.Range) bool { return n.Contains(all.First) && n.Contains(all.Last) })
}
