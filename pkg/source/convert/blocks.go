// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/blocks"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// BlockPool returns a pool for pods as blocks are cut out of it, and one for
// nodes as single addresses are: those that pods' legs ask for. Pools that don't
// assign by themselves, are for some namespaces only, or for nodes, give to those
// who ask.
func BlockPool(obj *v1alpha1.IPPool, labelsOf func(node string) map[string]string) (blocks.Pool, error) {
	obj = obj.DeepCopy()
	obj.Default()
	spec := &obj.Spec
	pool := blocks.Pool{
		Name: obj.Name, Priority: spec.Priority, Disabled: spec.Disabled,
		OnRequest: !*spec.AutoAssign || spec.NamespaceSelector != nil || spec.Use == v1alpha1.UseNode,
	}
	if spec.NodeSelector != nil {
		pool.Admits = func(node string) bool { return spec.NodeSelector.Matches(labelsOf(node)) }
	}
	if spec.Use == v1alpha1.UseNode {
		return singles(pool, obj)
	}
	for _, text := range spec.CIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("cidrs: %q is not a prefix", text)
		}
		pool.Ranges = append(pool.Ranges, blocks.Range{Prefix: prefix, Bits: spec.BlockBits(prefix)})
	}
	for _, text := range append([]string{spec.Gateway}, spec.Exclude...) {
		if text == "" {
			continue
		}
		prefix, err := addrOrPrefix(text)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("exclude: %w", err)
		}
		pool.Never = append(pool.Never, ipam.PrefixRange(prefix))
	}
	return pool, nil
}

// singles makes a pool for nodes give single addresses: none of its static ones,
// which are some machine's, and neither end of a subnet.
func singles(pool blocks.Pool, obj *v1alpha1.IPPool) (blocks.Pool, error) {
	ranges, err := PoolRanges(obj)
	if err != nil {
		return blocks.Pool{}, err
	}
	pool.Singles = ranges
	for _, st := range obj.Spec.Static {
		addr, err := parseAddr(st.Address)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("static: %w", err)
		}
		pool.Never = append(pool.Never, ipam.Range{First: addr, Last: addr})
	}
	for _, text := range obj.Spec.CIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("cidrs: %q is not a prefix", text)
		}
		if all := ipam.PrefixRange(prefix); prefix.Addr().BitLen()-prefix.Bits() >= 2 {
			pool.Never = append(pool.Never, ipam.Range{First: all.First, Last: all.First}, ipam.Range{First: all.Last, Last: all.Last})
		}
	}
	return pool, nil
}

// Block returns what an IPBlock says.
func Block(obj *v1alpha1.IPBlock) (blocks.Block, error) {
	prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
	if err != nil {
		return blocks.Block{}, fmt.Errorf("spec.cidr: %q is not a prefix", obj.Spec.CIDR)
	}
	return blocks.Block{
		Pool: obj.Spec.Pool, Node: obj.Spec.Node, Prefix: prefix,
		Draining: obj.Spec.State == v1alpha1.BlockDraining, Revision: obj.Spec.Revision,
	}, nil
}

// BlockObject returns a block as the object that keeps it. Its name comes from
// the prefix, so that there can't be two of one.
func BlockObject(b blocks.Block) *v1alpha1.IPBlock {
	name := fmt.Sprintf("%s-%d", b.Prefix.Addr().StringExpanded(), b.Prefix.Bits())
	obj := &v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{
		Pool: b.Pool, Node: b.Node, CIDR: b.Prefix.String(), State: v1alpha1.BlockActive, Revision: b.Revision,
	}}
	obj.Name = strings.ReplaceAll(name, ":", "-")
	if b.Draining {
		obj.Spec.State = v1alpha1.BlockDraining
	}
	return obj
}

// BlockUses returns what a node's report says of its blocks, and what its pods
// want.
func BlockUses(state *v1alpha1.NodeNetworkState) (map[netip.Prefix]blocks.Use, []blocks.Want) {
	uses := make(map[netip.Prefix]blocks.Use, len(state.Status.Blocks))
	for _, b := range state.Status.Blocks {
		if prefix, err := netip.ParsePrefix(b.CIDR); err == nil {
			uses[prefix] = blocks.Use{Revision: b.Revision, Used: b.Used, Free: b.Free}
		}
	}
	var wants []blocks.Want
	for _, w := range state.Status.AddressWants {
		addr, _ := netip.ParseAddr(w.Address) // empty: any
		if addr.IsValid() || w.Pool != "" {
			wants = append(wants, blocks.Want{Pool: w.Pool, Addr: addr, Count: int(w.Count)})
		}
	}
	return uses, wants
}
