// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing/poolspec"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// maxRest is how long an address may rest at most.
const maxRest = 24 * time.Hour

// gateWait is how long the gate is waited for: longer than an ADD takes.
const gateWait = 20 * time.Second

// Sync takes in what the objects say of pools and blocks, and looks at what is
// given out of them.
func (t *Table) Sync(_ context.Context, v parts.Objects) error {
	pools := map[string]*v1alpha1.IPPool{}
	for obj := range source.All[*v1alpha1.IPPool](v.Store, source.KindIPPool) {
		obj = obj.DeepCopy()
		obj.Default()
		pools[obj.Name] = obj
	}
	now := blocksOf(v, pools)
	t.mu.Lock()
	t.pools, t.blocks, t.objects, t.synced = pools, now, v.Store, true
	acted := map[netip.Prefix]int64{}
	for _, b := range now {
		acted[b.prefix] = t.acted[b.prefix]
		if !b.draining {
			acted[b.prefix] = b.revision
		}
	}
	t.acted = acted
	undone := len(t.undone()) > 0
	acted = maps.Clone(acted)
	t.mu.Unlock()
	t.tell()
	if undone {
		select {
		case t.drains <- struct{}{}:
		default: // it is on its way
		}
	}
	contents, err := t.Leases.List()
	if err != nil {
		return err
	}
	states := make([]v1alpha1.NodeBlockState, 0, len(now))
	for _, b := range now {
		states = append(states, t.state(b, contents, pools, acted))
	}
	t.mu.Lock()
	t.states = states
	t.resting = slices.ContainsFunc(contents.Resting, func(r store.Resting) bool { return r.Rested < maxRest })
	maps.DeleteFunc(t.waiting, func(_ agentapi.EndpointKey, w waiter) bool { return t.Now().Sub(w.at) > forgetAfter || t.over(w.pod) })
	t.mu.Unlock()
	return nil
}

// blocksOf are the node's ranges by the objects, in order.
func blocksOf(v parts.Objects, pools map[string]*v1alpha1.IPPool) []block {
	var blocks []block
	for obj := range source.All[*v1alpha1.IPBlock](v.Store, source.KindIPBlock) {
		prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
		if err != nil || obj.Spec.Node != v.Node {
			continue
		}
		b := block{prefix: prefix, pool: obj.Spec.Pool, revision: obj.Spec.Revision, draining: obj.Spec.State == v1alpha1.BlockDraining}
		if pool := pools[obj.Spec.Pool]; pool != nil && prefix.IsSingleIP() {
			b.single = isSingle(pool, prefix)
		}
		blocks = append(blocks, b)
	}
	// A block that is to go, as its pool did, doesn't take the place of the node's own.
	general := slices.ContainsFunc(blocks, func(b block) bool {
		pool := pools[b.pool]
		return pool != nil && !b.draining && !b.single && isGeneral(pool)
	})
	if obj, ok := source.Get[*corev1.Node](v.Store, source.KindNode, source.Key{Name: v.Node}); ok && !general {
		node, _ := convert.Node(obj) // what can't be read of it is said elsewhere
		for _, p := range node.PodCIDRs {
			blocks = append(blocks, block{prefix: p})
		}
	}
	slices.SortFunc(blocks, func(a, b block) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	return blocks
}

// isSingle tells whether a block of one address was asked for, where its pool's
// blocks are larger.
func isSingle(pool *v1alpha1.IPPool, block netip.Prefix) bool {
	for _, text := range pool.Spec.CIDRs {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Contains(block.Addr()) && pool.Spec.Use == v1alpha1.UsePod {
			return pool.Spec.BlockBits(cidr) != block.Bits()
		}
	}
	return true
}

// isGeneral tells whether a pool is for pods that ask for nothing in particular.
func isGeneral(obj *v1alpha1.IPPool) bool {
	return obj.Spec.Use == v1alpha1.UsePod && *obj.Spec.AutoAssign && obj.Spec.NamespaceSelector == nil
}

// undone are the draining blocks that have not been acted on. The lock is held.
func (t *Table) undone() []block {
	var out []block
	for _, b := range t.blocks {
		if b.draining && t.acted[b.prefix] != b.revision {
			out = append(out, b)
		}
	}
	return out
}

// passGate acts on draining blocks: once it has been through the gate alone, no ADD
// is under way that was told of a block before it was draining. It may take as long
// as an ADD does, so nothing else waits for it.
func (t *Table) passGate() error {
	t.mu.Lock()
	blocks := t.undone()
	t.mu.Unlock()
	if len(blocks) == 0 {
		return nil
	}
	gate, err := t.gate.Take(flock.Exclusive, gateWait)
	if err != nil {
		return fmt.Errorf("drain blocks: %w", err)
	}
	t.mu.Lock()
	for _, b := range blocks {
		t.acted[b.prefix] = b.revision
	}
	t.mu.Unlock()
	return gate.Close()
}

// drain passes the gate whenever there is something to be drained, until ctx ends.
func (t *Table) drain(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.drains:
		}
		if err := t.passGate(); err != nil {
			t.Log.Info("wait for pods that are being added", "err", err)
			time.AfterFunc(time.Second, t.Wake) // which finds it undone
			continue
		}
		t.Wake()
	}
}

// state counts what is given out of a block, what rests included.
func (t *Table) state(b block, contents store.Contents, pools map[string]*v1alpha1.IPPool, acted map[netip.Prefix]int64) v1alpha1.NodeBlockState {
	s := v1alpha1.NodeBlockState{CIDR: b.prefix.String(), Pool: b.pool, Revision: acted[b.prefix]}
	if b.pool != "" {
		s.State = v1alpha1.BlockActive
	}
	if b.draining {
		s.State = v1alpha1.BlockDraining
	}
	rest := ipam.DefaultRest().CoolDown
	sub := ipam.Subnet{Prefix: b.prefix}
	if obj := pools[b.pool]; obj != nil {
		rest = obj.Spec.CoolDown.Duration
		sub.Exclude = slices.DeleteFunc(poolspec.Never(obj), func(r netip.Prefix) bool { return r.Addr().Is4() != b.is4() })
	}
	if b.single {
		rest = min(rest, ipam.DefaultRest().Minimum) // it is for who asks for it by name
	}
	for _, a := range usedOf(contents, rest) {
		if b.prefix.Contains(a) {
			s.Used++
		}
	}
	if pool, err := ipam.NewPool("", sub); err == nil {
		s.Free = max(0, int64(min(pool.Size(), math.MaxInt64))-s.Used)
	}
	return s
}

// usedOf are the addresses that can't be given just now.
func usedOf(contents store.Contents, rest time.Duration) []netip.Addr {
	var used []netip.Addr
	for _, l := range contents.Leases {
		used = append(used, l.Addrs...)
	}
	for _, r := range contents.Resting {
		if r.Rested < rest {
			used = append(used, r.Addr)
		}
	}
	for _, r := range contents.Reserved {
		used = append(used, r.Addr)
	}
	return used
}

// Report says how the blocks stand and what pods wait for.
func (t *Table) Report(s *v1alpha1.NodeNetworkStateStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.synced {
		return
	}
	for i, b := range t.states {
		if i >= len(t.reported) || !steady(t.reported[i], b) {
			t.reported = slices.Clone(t.states)
			break
		}
	}
	s.Blocks = slices.Clone(t.reported[:len(t.states)])
	counts := map[want]int32{}
	for _, w := range t.waiting {
		for _, one := range w.wants {
			counts[one]++
		}
	}
	s.AddressWants = nil
	for _, one := range slices.SortedFunc(maps.Keys(counts), func(a, b want) int { return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.addr, b.addr)) }) {
		s.AddressWants = append(s.AddressWants, v1alpha1.AddressWant{Pool: one.pool, Address: one.addr, Count: counts[one]})
	}
}

// steady tells whether a block's use changed too little to be reported: not near its
// end, nor to nothing. Every node hears of each report.
func steady(was, is v1alpha1.NodeBlockState) bool {
	moved := max(is.Used-was.Used, was.Used-is.Used)
	same := was
	same.Used, same.Free = is.Used, is.Free
	return was == is || same == is && was.Used > 0 && is.Used > 0 && moved*16 <= is.Free
}

// Run has the part look again when leases changed, and when what rests has rested
// enough to be another node's, until ctx ends. It also compares leases with the
// runtime's sandboxes.
func (t *Table) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return t.watchLeases(ctx) })
	group.Go(func() error { return t.watchSandboxes(ctx) })
	group.Go(func() error { return t.drain(ctx) })
	return group.Wait()
}

func (t *Table) watchLeases(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var seen time.Time
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		info, err := os.Stat(t.Leases.Path())
		if changed := err == nil && !info.ModTime().Equal(seen); changed || n%10 == 0 && t.unsettled() {
			if changed {
				seen = info.ModTime()
			}
			t.Wake()
		}
	}
}

// unsettled tells whether time alone may change the report.
func (t *Table) unsettled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0 || t.resting
}
