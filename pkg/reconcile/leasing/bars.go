// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing/poolspec"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
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
		in := poolspec.Contains(obj, a)
		gateway, _ := netip.ParseAddr(obj.Spec.Gateway)
		switch {
		case in && (obj.Spec.Use != use || !p.admits(obj)):
			return refuse("address %s is of pool %s, which isn't for it", a, name)
		case in && slices.ContainsFunc(poolspec.Never(obj), contains) || a == gateway:
			return refuse("address %s is kept out of pool %s", a, name)
		}
	}
	return nil
}

// unfree is why a pod may not have an address on a switch that no pool for nodes
// has: its namespace must permit it, and a node, a Service or the range of pods or
// Services mustn't have it.
func (p *planner) unfree(a netip.Addr) error {
	if !p.wish.free {
		return refuse("address %s is in no pool of use Node, and the pod's namespace has no annotation %s: \"true\"", a, v1alpha1.AnnotationFreeAddresses)
	}
	taken := slices.ContainsFunc(p.ranges, func(r netip.Prefix) bool { return r.Contains(a) })
	for obj := range source.All[*corev1.Node](p.objects, source.KindNode) {
		n, _ := convert.Node(obj) // what can't be read of it is said elsewhere
		taken = taken || slices.Contains(n.InternalIPs, a) || slices.Contains(n.ExternalIPs, a) ||
			slices.ContainsFunc(n.PodCIDRs, func(r netip.Prefix) bool { return r.Contains(a) })
	}
	for obj := range source.All[*corev1.Service](p.objects, source.KindService) {
		has := slices.Concat(obj.Spec.ClusterIPs, obj.Spec.ExternalIPs)
		for _, in := range obj.Status.LoadBalancer.Ingress {
			has = append(has, in.IP)
		}
		taken = taken || slices.Contains(has, a.String())
	}
	if taken {
		return refuse("address %s is a node's, or of the pods or Services", a)
	}
	return nil
}
