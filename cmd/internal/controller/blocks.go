// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
	"github.com/patchbay-net/patchbay/ipam/blocks"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// nodeBlocks gives blocks of the pools to nodes: of those for pods to nodes that
// have no range in their Node object, and what pods ask for to any.
type nodeBlocks struct {
	store   *source.Store
	objects *recent[*v1alpha1.IPBlock]
	absent  *absentees
	events  status.Recorder
	taints  tainter // nil: nodes can't be tainted
	log     *slog.Logger
	said    map[string]string // what a node lacks, as last told
	short   map[string]bool   // nodes that are about to have no address left
	usage   []loadbalancer.Usage
	gone    map[netip.Prefix]time.Time // blocks whose nodes are gone, since when
}

// restGone is how long the blocks of a node that is gone stay with it. Its pods may
// run on for a while, or for good: its object was deleted by mistake and comes back.
const restGone = 5 * time.Minute

// tainter puts a taint on a node, or takes it off.
type tainter interface {
	Taint(ctx context.Context, node string, taint corev1.Taint, on bool) error
}

// taintShort keeps further pods from a node that is about to have no address for
// them.
func taintShort() corev1.Taint {
	return corev1.Taint{Key: v1alpha1.Group + "/addresses-exhausted", Effect: corev1.TaintEffectNoSchedule}
}

func newNodeBlocks(store *source.Store, to access, absent *absentees, log *slog.Logger) *nodeBlocks {
	same := func(a, b *v1alpha1.IPBlock) bool { return equality.Semantic.DeepEqual(a.Spec, b.Spec) }
	taints, _ := to.writer.(tainter)
	return &nodeBlocks{
		store: store, objects: newRecent(store, to.writer, source.KindIPBlock, same),
		absent: absent, events: to.events, taints: taints, log: log, said: map[string]string{}, short: map[string]bool{},
	}
}

// reconcile makes the blocks that nodes lack, and takes back those that they
// don't need and those of nodes that are gone.
func (n *nodeBlocks) reconcile(ctx context.Context, now time.Time) error {
	in, err := n.input(now)
	if err != nil {
		return err // an unknown block may be anywhere
	}
	n.count(in)
	result := blocks.Plan(in)
	var errs []error
	for _, b := range result.Change {
		n.log.Info("block changed", "node", b.Node, "block", b.Prefix, "pool", b.Pool, "draining", b.Draining)
		errs = append(errs, n.objects.put(ctx, convert.BlockObject(b), now))
	}
	for _, b := range result.Create {
		n.log.Info("block assigned", "node", b.Node, "block", b.Prefix, "pool", b.Pool)
		errs = append(errs, n.objects.put(ctx, convert.BlockObject(b), now))
	}
	for _, b := range n.ripe(result.Remove, in.Nodes, now) {
		n.log.Info("block taken back", "node", b.Node, "block", b.Prefix, "pool", b.Pool)
		errs = append(errs, n.objects.remove(ctx, source.KeyOf(convert.BlockObject(b)), now))
	}
	n.tell(result.Reasons)
	errs = append(errs, n.taint(ctx, result.Short))
	return errors.Join(errs...)
}

// ripe picks the blocks that may be taken back now: those of nodes that are gone
// once they have been for a while.
func (n *nodeBlocks) ripe(list []blocks.Block, nodes []blocks.Node, now time.Time) []blocks.Block {
	gone := map[netip.Prefix]time.Time{}
	var out []blocks.Block
	for _, b := range list {
		if slices.ContainsFunc(nodes, func(o blocks.Node) bool { return o.Name == b.Node }) {
			out = append(out, b)
			continue
		}
		since, ok := n.gone[b.Prefix]
		if !ok {
			since = now
			n.log.Info("block's node is gone", "node", b.Node, "block", b.Prefix, "kept", restGone)
		}
		gone[b.Prefix] = since
		if now.Sub(since) >= restGone && !n.absent.doubt {
			out = append(out, b)
		}
	}
	n.gone = gone
	return out
}

func (n *nodeBlocks) input(now time.Time) (blocks.Input, error) {
	var in blocks.Input
	var errs []error
	for _, obj := range n.objects.list(now) {
		b, err := convert.Block(obj)
		if err != nil {
			errs = append(errs, fmt.Errorf("IPBlock %s: %w", obj.Name, err))
			continue
		}
		in.Blocks = append(in.Blocks, b)
	}
	for obj := range source.All[*v1alpha1.IPPool](n.store, source.KindIPPool) {
		if obj.Spec.Use == v1alpha1.UseLoadBalancer {
			continue
		}
		pool, err := convert.BlockPool(obj, n.labelsOf)
		if err != nil {
			pool = blocks.Pool{Name: obj.Name, Unknown: true}
		}
		in.Pools = append(in.Pools, pool)
	}
	for obj := range source.All[*corev1.Node](n.store, source.KindNode) {
		node, err := convert.Node(obj)
		has := len(node.PodCIDRs) > 0 || err != nil // ranges that can't be read are ranges
		about := blocks.Node{Name: node.Name, IPv4: has, IPv6: has, Short: n.short[node.Name]}
		if state, ok := source.Get[*v1alpha1.NodeNetworkState](n.store, source.KindNodeNetworkState, source.Key{Name: node.Name}); ok {
			about.Uses, about.Wants = convert.BlockUses(state)
		}
		in.Nodes = append(in.Nodes, about)
		in.Taken = append(in.Taken, node.PodCIDRs...)
		for _, addr := range slices.Concat(node.InternalIPs, node.ExternalIPs) {
			in.Taken = append(in.Taken, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return in, errors.Join(errs...)
}

func (n *nodeBlocks) labelsOf(node string) map[string]string {
	obj, ok := source.Get[*corev1.Node](n.store, source.KindNode, source.Key{Name: node})
	if !ok {
		return nil
	}
	return obj.Labels
}

// count adds up what is given out of the pools.
func (n *nodeBlocks) count(in blocks.Input) {
	n.usage = nil
	for _, pool := range in.Pools {
		if pool.Unknown {
			continue
		}
		u := loadbalancer.Usage{Pool: pool.Name, Total: pool.Size()}
		for _, b := range in.Blocks {
			if i := slices.IndexFunc(in.Nodes, func(o blocks.Node) bool { return o.Name == b.Node }); b.Pool == pool.Name && i >= 0 {
				u.Used += uint64(max(0, in.Nodes[i].Uses[b.Prefix].Used))
			}
		}
		n.usage = append(n.usage, u)
	}
}

// taint marks the nodes that are about to have no address left, and unmarks
// those that have some again, also where an earlier controller marked them.
func (n *nodeBlocks) taint(ctx context.Context, short map[string]bool) error {
	n.short = short
	if n.taints == nil {
		return nil
	}
	want := taintShort()
	var errs []error
	for _, obj := range source.List[*corev1.Node](n.store, source.KindNode) {
		has := slices.ContainsFunc(obj.Spec.Taints, func(t corev1.Taint) bool { return t.Key == want.Key && t.Effect == want.Effect })
		if has == short[obj.Name] {
			continue
		}
		n.log.Info("node tainted", "node", obj.Name, "taint", want.Key, "on", short[obj.Name])
		if err := n.taints.Taint(ctx, obj.Name, want, short[obj.Name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tell says once what a node lacks.
func (n *nodeBlocks) tell(reasons map[string]error) {
	said := map[string]string{}
	for _, node := range slices.Sorted(maps.Keys(reasons)) {
		why := status.OneLine(reasons[node])
		said[node] = why
		if n.said[node] == why {
			continue
		}
		n.log.Warn("addresses that a node lacks", "node", node, "reason", why)
		if obj, ok := source.Get[*corev1.Node](n.store, source.KindNode, source.Key{Name: node}); ok {
			n.events.Event(obj, corev1.EventTypeWarning, "NoBlock", why)
		}
	}
	n.said = said
}
