// SPDX-License-Identifier: Apache-2.0

// Package blocks decides which nodes give out addresses of which blocks of the
// pools. It is pure and remembers nothing: the blocks that exist, and what the
// nodes say of them, are its input.
//
// Of each family that a pool has for it a node keeps a block, gets another
// before it runs out, and gives back what it doesn't need. Pools on request
// have blocks where pods ask for them only, and so have single addresses that
// pods ask for. A block whose pool doesn't give it any more (disabled, removed,
// shrunk, for other nodes now) is drained.
//
// A block changes hands in three steps, each of them durable before the next: it
// is made draining under a new revision; its node says that it gives nothing out
// of it under that revision, and that nothing is given out; it is removed. So it
// never is two nodes', whoever is killed in between and however late reports are.
package blocks

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// Pool is a set of addresses to cut blocks out of.
type Pool struct {
	Name      string
	Ranges    []Range
	Singles   []ipam.Range // in place of Ranges: blocks are single addresses of these
	Never     []ipam.Range // never given: a block without any other address is of no use
	Priority  int32        // the highest is tried first
	Disabled  bool         // gives nothing any more; its blocks are drained
	OnRequest bool         // only for pods that ask for it
	Unknown   bool         // can't be read: its blocks stay as they are
	Admits    func(node string) bool
}

// Range is a prefix, and the length of the blocks cut out of it.
type Range struct {
	Prefix netip.Prefix
	Bits   int
}

// Node is a node that gets its blocks from us.
type Node struct {
	Name  string
	IPv4  bool // it has a range of that family by other means
	IPv6  bool
	Uses  map[netip.Prefix]Use // as it last reported
	Wants []Want
	Short bool // it was Short at the last look
}

// Use is what a node says of a block, or of a range that it has by other means.
type Use struct {
	Revision   int64 // that it has acted on
	Used, Free int64
}

// Want is what pods on a node wait for.
type Want struct {
	Pool  string
	Addr  netip.Addr // this one; zero: any of the pool
	Count int        // of pods
}

// Block is a part of a pool that a node has.
type Block struct {
	Pool, Node string
	Prefix     netip.Prefix
	Draining   bool
	Revision   int64
}

// Input is all that Plan looks at.
type Input struct {
	Pools  []Pool
	Nodes  []Node
	Blocks []Block
	Taken  []netip.Prefix // that no block may overlap: nodes' own ranges and addresses
}

// Result is what to make, to change and to take away.
type Result struct {
	Create  []Block
	Change  []Block
	Remove  []Block
	Reasons map[string]error // what a node lacks and why, by node
	Short   map[string]bool  // nodes that are about to have no address left for pods
}

// Errors that a Reason may match.
var (
	ErrExhausted = errors.New("no free block")             // the pools have no block left for a node
	ErrAddress   = errors.New("address can't be had here") // a pod asks for an address that its node can't have
)

// Plan decides. Equal inputs, in any order, give equal results.
func Plan(in Input) Result {
	p := newPlanner(in)
	for _, n := range p.nodes {
		p.close(n)
		p.general(n)
		p.requested(n)
		p.addresses(n)
	}
	return p.result()
}

func (n Node) has(is4 bool) bool {
	if is4 {
		return n.IPv4
	}
	return n.IPv6
}

// held is a block that exists, and what becomes of it.
type held struct {
	Block
	was Block
}

type planner struct {
	pools  []Pool // best first
	nodes  []Node // by name
	blocks []*held
	taken  []netip.Prefix
	out    Result
	gone   []Block
}

func newPlanner(in Input) *planner {
	p := &planner{
		pools: slices.Clone(in.Pools), nodes: slices.Clone(in.Nodes), taken: slices.Clone(in.Taken),
		out: Result{Reasons: map[string]error{}, Short: map[string]bool{}},
	}
	slices.SortFunc(p.pools, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(p.nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, b := range in.Blocks {
		if slices.ContainsFunc(in.Nodes, func(n Node) bool { return n.Name == b.Node }) {
			p.blocks = append(p.blocks, &held{b, b})
		} else {
			p.gone = append(p.gone, b)
		}
		p.taken = append(p.taken, b.Prefix)
	}
	byPrefix := func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}
	slices.SortFunc(p.blocks, func(a, b *held) int { return byPrefix(a.Prefix, b.Prefix) })
	slices.SortFunc(p.gone, func(a, b Block) int { return byPrefix(a.Prefix, b.Prefix) })
	return p
}

// result says what differs from what was.
func (p *planner) result() Result {
	p.out.Remove = p.gone
	for _, b := range p.blocks {
		switch {
		case b.Draining != b.was.Draining:
			p.out.Change = append(p.out.Change, b.Block)
		case b.Draining && p.unused(b):
			p.out.Remove = append(p.out.Remove, b.was)
		}
	}
	return p.out
}

func (p *planner) because(node string, err error) {
	p.out.Reasons[node] = errors.Join(p.out.Reasons[node], err)
}

// set makes a block draining, or active again.
func (b *held) set(draining bool) {
	if b.Draining != draining {
		b.Draining = draining
		b.Revision++
	}
}

// use returns what a block's node says of it now; not what it said before it had
// acted on the block's last change.
func (p *planner) use(b *held) (Use, bool) {
	for _, n := range p.nodes {
		if use, ok := n.Uses[b.Prefix]; ok && n.Name == b.Node && use.Revision == b.was.Revision {
			return use, true
		}
	}
	return Use{}, false
}

// unused tells whether nothing is given out of a block, certainly.
func (p *planner) unused(b *held) bool {
	use, ok := p.use(b)
	return ok && use.Used == 0
}

// free is how many addresses a block has left, all of them if its node has not
// said yet.
func (p *planner) free(b *held) int64 {
	if use, ok := p.use(b); ok {
		return use.Free
	}
	return capacity(b.Prefix)
}

func capacity(p netip.Prefix) int64 { return 1 << min(p.Addr().BitLen()-p.Bits(), 30) }

func (p *planner) pool(name string) (Pool, bool) {
	i := slices.IndexFunc(p.pools, func(o Pool) bool { return o.Name == name })
	if i < 0 {
		return Pool{}, false
	}
	return p.pools[i], true
}

// gives tells whether a pool may give something to a node.
func (o Pool) gives(node string) bool {
	return !o.Disabled && !o.Unknown && (o.Admits == nil || o.Admits(node))
}

// covers tells whether a prefix is the pool's.
func (o Pool) covers(p netip.Prefix) bool {
	for _, r := range o.Ranges {
		if r.Prefix.Contains(p.Addr()) && r.Prefix.Bits() <= p.Bits() {
			return true
		}
	}
	all := ipam.PrefixRange(p)
	return slices.ContainsFunc(o.Singles, func(r ipam.Range) bool { return r.Contains(all.First) && r.Contains(all.Last) })
}

// single tells whether a block is one address that was asked for, cut out of a
// pool with larger blocks.
func (p *planner) single(b *held) bool {
	pool, ok := p.pool(b.Pool)
	if !ok || b.Prefix.Bits() < b.Prefix.Addr().BitLen() || len(pool.Singles) > 0 {
		return false
	}
	return !slices.ContainsFunc(pool.Ranges, func(r Range) bool { return r.Prefix.Contains(b.Prefix.Addr()) && r.Bits == b.Prefix.Bits() })
}

// close drains a node's blocks that their pools don't give it any more.
func (p *planner) close(n Node) {
	for _, b := range p.blocks {
		if b.Node == n.Name && !p.open(b) {
			if pool, ok := p.pool(b.Pool); !ok || !pool.Unknown {
				b.set(true)
			}
		}
	}
}

// open tells whether the block's node may still have it.
func (p *planner) open(b *held) bool {
	pool, ok := p.pool(b.Pool)
	return ok && pool.gives(b.Node) && pool.covers(b.Prefix)
}

// general gives a node what its pods need that ask for nothing in particular.
func (p *planner) general(n Node) {
	var pools []Pool
	for _, o := range p.pools {
		if !o.OnRequest {
			pools = append(pools, o)
		}
	}
	for _, is4 := range [...]bool{true, false} {
		if n.has(is4) {
			p.judgeOwn(n, is4)
			continue
		}
		p.serve(n, demand{pools: pools, is4: is4, always: true})
	}
}

// judgeOwn looks at the ranges that a node has by other means: they don't grow.
func (p *planner) judgeOwn(n Node, is4 bool) {
	free, size := int64(0), int64(0)
	for prefix, use := range n.Uses {
		isBlock := slices.ContainsFunc(p.blocks, func(b *held) bool { return b.Prefix == prefix })
		if !isBlock && prefix.Addr().Is4() == is4 {
			free, size = free+use.Free, size+use.Used+use.Free
		}
	}
	if size > 0 && free <= near(n, size) {
		p.out.Short[n.Name] = true
		p.because(n.Name, fmt.Errorf("%w: %d of %d addresses of node.spec.podCIDRs are left", ErrExhausted, free, size))
	}
}

// near is how few addresses left are about to be none. A node that was short is
// so until there are twice as many.
func near(n Node, size int64) int64 {
	few := min(8, max(1, size/8))
	if n.Short {
		few *= 2
	}
	return few
}

// requested gives a node what its pods ask for by a pool's name.
func (p *planner) requested(n Node) {
	waiting := map[string]int{}
	for _, w := range n.Wants {
		if !w.Addr.IsValid() {
			waiting[w.Pool] += w.Count
		}
	}
	for _, o := range p.pools {
		if !o.OnRequest {
			continue
		}
		for _, is4 := range [...]bool{true, false} {
			p.serve(n, demand{pools: []Pool{o}, is4: is4, waiting: int64(waiting[o.Name])})
		}
		delete(waiting, o.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		if _, ok := p.pool(name); !ok {
			p.because(n.Name, fmt.Errorf("%w: there is no pool %q", ErrExhausted, name))
		}
	}
}

// demand is what a node needs of some pools in one family.
type demand struct {
	pools   []Pool
	is4     bool
	always  bool  // one block at least, asked for or not
	waiting int64 // pods that have no address yet
}

// serve sees to it that a node has enough of what it needs, and not too much.
func (p *planner) serve(n Node, d demand) {
	active, idle := p.members(n, d)
	free, size := int64(0), int64(0)
	for _, b := range active {
		free, size = free+p.free(b), max(size, capacity(b.Prefix))
	}
	low := int64(0)
	if size > 1 {
		low = max(1, size/4)
	}
	lacks := func() bool {
		return len(active) == 0 && d.always || size > 1 && free <= low || d.waiting > free
	}
	for lacks() {
		b, err := p.another(n, d, &idle)
		if b == nil {
			if err != nil {
				p.because(n.Name, err)
			}
			p.short(n, d, err, free, size)
			return
		}
		active = append(active, b)
		free, size = free+capacity(b.Prefix), max(size, capacity(b.Prefix))
		low = min(low, free-1)
	}
	p.spare(n, d, active, free, max(1, size/4))
}

// short notes that a node is about to have no address left for pods that ask for
// nothing in particular, though it once had some.
func (p *planner) short(n Node, d demand, err error, free, size int64) {
	had := slices.ContainsFunc(p.blocks, func(b *held) bool {
		pool, ok := p.pool(b.Pool)
		return b.Node == n.Name && b.Prefix.Addr().Is4() == d.is4 && !(ok && pool.OnRequest)
	})
	if !d.always || err == nil && !had || free > near(n, size) {
		return
	}
	p.out.Short[n.Name] = true
	if err == nil {
		p.because(n.Name, fmt.Errorf("%w: no pool gives it another one", ErrExhausted))
	}
}

// members are a node's blocks that a demand is met from, and those that could.
func (p *planner) members(n Node, d demand) (active, idle []*held) {
	for _, b := range p.blocks {
		if b.Node != n.Name || b.Prefix.Addr().Is4() != d.is4 || p.single(b) ||
			!slices.ContainsFunc(d.pools, func(o Pool) bool { return o.Name == b.Pool }) {
			continue
		}
		switch {
		case !b.Draining:
			active = append(active, b)
		case p.open(b):
			idle = append(idle, b)
		}
	}
	return active, idle
}

// another gives a node one block more: one that it was about to give back, or a
// new one. Nil without an error: no pool has such addresses for it.
func (p *planner) another(n Node, d demand, idle *[]*held) (*held, error) {
	if len(*idle) > 0 {
		b := (*idle)[0]
		*idle = (*idle)[1:]
		b.set(false)
		return b, nil
	}
	block, err := p.cut(n.Name, d)
	if err != nil || !block.Prefix.IsValid() {
		return nil, err
	}
	return p.create(block), nil
}

// create makes a block; it counts as held from now on.
func (p *planner) create(b Block) *held {
	p.out.Create = append(p.out.Create, b)
	p.taken = append(p.taken, b.Prefix)
	return &held{b, b}
}

// spare drains the last of the blocks that a node doesn't use, if what is left is
// enough for a while.
func (p *planner) spare(n Node, d demand, active []*held, free, low int64) {
	for _, b := range slices.Backward(active) {
		wanted := slices.ContainsFunc(n.Wants, func(w Want) bool { return w.Addr.IsValid() && b.Prefix.Contains(w.Addr) })
		last := len(active) == 1 || capacity(b.Prefix) == 1
		enough := free-p.free(b) > 3*low
		if last {
			enough = !d.always && d.waiting == 0
		}
		if enough && !wanted && !b.was.Draining && p.unused(b) {
			b.set(true)
			return
		}
	}
}

// addresses gives a node the single addresses that its pods ask for, and takes
// back those that none asks for any more.
func (p *planner) addresses(n Node) {
	for _, w := range n.Wants {
		if !w.Addr.IsValid() {
			continue
		}
		if err := p.address(n, w.Addr); err != nil {
			p.because(n.Name, fmt.Errorf("%w: %s: %w", ErrAddress, w.Addr, err))
		}
	}
	for _, b := range p.blocks {
		if b.Node == n.Name && p.single(b) && !b.Draining && !b.was.Draining && p.unused(b) && !n.wants(b.Prefix.Addr()) {
			b.set(true)
		}
	}
}

func (n Node) wants(addr netip.Addr) bool {
	return slices.ContainsFunc(n.Wants, func(w Want) bool { return w.Addr == addr })
}

// address gives a node one address.
func (p *planner) address(n Node, addr netip.Addr) error {
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	for _, b := range p.blocks {
		switch {
		case !b.Prefix.Contains(addr):
			continue
		case b.Node == n.Name && p.open(b):
			b.set(false)
			return nil
		case b.Node == n.Name:
			return fmt.Errorf("pool %s gives it no more", b.Pool)
		case b.Prefix != prefix:
			return fmt.Errorf("it is in block %s of node %s; fixed addresses belong into a pool with autoAssign: false", b.Prefix, b.Node)
		case p.unused(b):
			b.set(true) // it comes here once the other node has let go of it
			return nil
		}
		return fmt.Errorf("it is in use on node %s", b.Node)
	}
	if slices.ContainsFunc(p.taken, func(t netip.Prefix) bool { return t.Contains(addr) }) {
		return errors.New("it is a node's")
	}
	for _, o := range p.pools {
		if o.gives(n.Name) && o.covers(prefix) && !slices.ContainsFunc(o.Never, func(r ipam.Range) bool { return r.Contains(addr) }) {
			p.create(Block{Pool: o.Name, Node: n.Name, Prefix: prefix})
			return nil
		}
	}
	return errors.New("no pool gives it to this node")
}
