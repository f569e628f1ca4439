// SPDX-License-Identifier: Apache-2.0

// Package poolspec reads the addresses of IPPools.
package poolspec

import (
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// Contains tells whether an address is a pool's: one that it gives, or has for
// some machine, or keeps out.
func Contains(obj *v1alpha1.IPPool, a netip.Addr) bool {
	if obj.Spec.Use == v1alpha1.UseNode {
		_, in := Network(obj, a)
		return in
	}
	return slices.ContainsFunc(obj.Spec.CIDRs, func(text string) bool {
		cidr, ok := parse(text)
		return ok && cidr.Contains(a)
	}) || slices.ContainsFunc(obj.Spec.Ranges, func(r v1alpha1.IPRange) bool { return inRange(r, a) })
}

// Never are the addresses of a pool that it doesn't give.
func Never(obj *v1alpha1.IPPool) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range append([]string{obj.Spec.Gateway}, obj.Spec.Exclude...) {
		if p, ok := parse(text); ok {
			out = append(out, p)
		}
	}
	return out
}

func parse(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(text)
	return netip.PrefixFrom(a, a.BitLen()), err == nil
}

// Network returns the network of an address that a pool for nodes gives, or has
// for some machine.
func Network(obj *v1alpha1.IPPool, a netip.Addr) (netip.Prefix, bool) {
	if obj.Spec.Use != v1alpha1.UseNode {
		return netip.Prefix{}, false
	}
	var network netip.Prefix
	for _, text := range obj.Spec.CIDRs {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Contains(a) {
			network = cidr
		}
	}
	in := network.IsValid() && len(obj.Spec.Ranges) == 0
	for _, r := range obj.Spec.Ranges {
		if inRange(r, a) {
			in = true
			if !network.IsValid() {
				network = around(netip.MustParseAddr(r.First), netip.MustParseAddr(r.Last))
			}
		}
	}
	return network, in
}

func inRange(r v1alpha1.IPRange, a netip.Addr) bool {
	first, err1 := netip.ParseAddr(r.First)
	last, err2 := netip.ParseAddr(r.Last)
	return err1 == nil && err2 == nil && ipam.Range{First: first, Last: last}.Contains(a)
}

// around is the smallest network that has both addresses as hosts.
func around(first, last netip.Addr) netip.Prefix {
	for bits := first.BitLen() - 2; ; bits-- {
		all := ipam.PrefixRange(netip.PrefixFrom(first, bits).Masked())
		if bits == 0 || all.Contains(last) && all.First != first && all.Last != last {
			return netip.PrefixFrom(first, bits).Masked()
		}
	}
}

// Firsts are addresses that tell a pool's families.
func Firsts(obj *v1alpha1.IPPool) []netip.Addr {
	var out []netip.Addr
	for _, text := range obj.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil && len(obj.Spec.Ranges) == 0 {
			out = append(out, p.Addr())
		}
	}
	for _, r := range obj.Spec.Ranges {
		if a, err := netip.ParseAddr(r.First); err == nil {
			out = append(out, a)
		}
	}
	return out
}
