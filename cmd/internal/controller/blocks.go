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

	"github.com/patchbay-net/patchbay/ipam/blocks"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// nodeBlocks gives blocks of the pools for pods to the nodes that have no range
// in their Node object.
type nodeBlocks struct {
	store   *source.Store
	objects *recent[*v1alpha1.IPBlock]
	absent  *absentees
	events  recorder
	log     *slog.Logger
	said    map[string]string // why a node has no block, as last told
}

func newNodeBlocks(store *source.Store, to access, absent *absentees, log *slog.Logger) *nodeBlocks {
	same := func(a, b *v1alpha1.IPBlock) bool { return equality.Semantic.DeepEqual(a.Spec, b.Spec) }
	return &nodeBlocks{
		store: store, objects: newRecent(store, to.writer, source.KindIPBlock, same),
		absent: absent, events: to.events, log: log, said: map[string]string{},
	}
}

// reconcile makes the blocks that nodes lack, and takes away those of nodes
// that are gone.
func (n *nodeBlocks) reconcile(ctx context.Context, now time.Time) error {
	in, err := n.input(now)
	if err != nil {
		return err // an unknown block may be anywhere
	}
	result := blocks.Plan(in)
	var errs []error
	for _, b := range result.Create {
		n.log.Info("block assigned", "node", b.Node, "block", b.Prefix, "pool", b.Pool)
		errs = append(errs, n.objects.put(ctx, convert.BlockObject(b), now))
	}
	for _, b := range result.Remove {
		if n.absent.doubt {
			continue
		}
		n.log.Info("block taken back", "node", b.Node, "block", b.Prefix, "pool", b.Pool)
		errs = append(errs, n.objects.remove(ctx, source.KeyOf(convert.BlockObject(b)), now))
	}
	n.tell(result.Reasons)
	return errors.Join(errs...)
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
		if obj.Spec.Use != v1alpha1.UsePod {
			continue
		}
		if pool, err := convert.BlockPool(obj, n.labelsOf); err == nil {
			in.Pools = append(in.Pools, pool)
		}
	}
	for obj := range source.All[*corev1.Node](n.store, source.KindNode) {
		node, err := convert.Node(obj)
		has := len(node.PodCIDRs) > 0 || err != nil // ranges that can't be read are ranges
		in.Nodes = append(in.Nodes, blocks.Node{Name: node.Name, IPv4: has, IPv6: has})
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

// tell says once why a node lacks a block.
func (n *nodeBlocks) tell(reasons map[string]error) {
	said := map[string]string{}
	for _, node := range slices.Sorted(maps.Keys(reasons)) {
		why := oneLine(reasons[node])
		said[node] = why
		if n.said[node] == why {
			continue
		}
		n.log.Warn("no block for node", "node", node, "reason", why)
		if obj, ok := source.Get[*corev1.Node](n.store, source.KindNode, source.Key{Name: node}); ok {
			n.events.Event(obj, corev1.EventTypeWarning, "NoBlock", why)
		}
	}
	n.said = said
}
