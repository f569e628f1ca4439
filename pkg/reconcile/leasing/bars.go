// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// admits tells whether a pool is for the pod's namespace.
func (p *planner) admits(obj *v1alpha1.IPPool) bool {
	return obj.Spec.NamespaceSelector.Matches(p.wish.namespaceLabels)
}

// barred is why a pod may not have an address by its wish: a pool of another use,
// or for other namespaces, has it, or a pool keeps it out.
func (p *planner) barred(a netip.Addr, use v1alpha1.PoolUse) error {
	contains := func(r netip.Prefix) bool { return r.Contains(a) }
	for name, obj := range p.pools {
		in := contained(obj, a)
		gateway, _ := netip.ParseAddr(obj.Spec.Gateway)
		switch {
		case in && (obj.Spec.Use != use || !p.admits(obj)):
			return refuse("address %s is of pool %s, which isn't for it", a, name)
		case in && slices.ContainsFunc(never(obj), contains) || a == gateway:
			return refuse("address %s is kept out of pool %s", a, name)
		}
	}
	return nil
}

// contained tells whether an address is a pool's.
func contained(obj *v1alpha1.IPPool, a netip.Addr) bool {
	if obj.Spec.Use == v1alpha1.UseNode {
		_, in := networkOf(obj, a)
		return in
	}
	return slices.ContainsFunc(obj.Spec.CIDRs, func(text string) bool {
		cidr, ok := prefixOf(text)
		return ok && cidr.Contains(a)
	}) || slices.ContainsFunc(obj.Spec.Ranges, func(r v1alpha1.IPRange) bool { return inRange(r, a) })
}

// never are the addresses of a pool that it doesn't give.
func never(obj *v1alpha1.IPPool) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range append([]string{obj.Spec.Gateway}, obj.Spec.Exclude...) {
		if p, ok := prefixOf(text); ok {
			out = append(out, p)
		}
	}
	return out
}
