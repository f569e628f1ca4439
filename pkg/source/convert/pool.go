// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// LabelsOf returns the labels of a Service and of its namespace.
type LabelsOf func(loadbalancer.Name) (service, namespace map[string]string)

// Pool returns a pool of use LoadBalancer as it gives addresses.
func Pool(obj *v1alpha1.IPPool, labelsOf LabelsOf) (loadbalancer.Pool, error) {
	obj = obj.DeepCopy()
	obj.Default()
	spec := &obj.Spec
	parts, err := poolParts(obj)
	if err != nil {
		return loadbalancer.Pool{}, err
	}
	return loadbalancer.Pool{
		Name: obj.Name, Parts: parts, Priority: spec.Priority, AutoAssign: *spec.AutoAssign, Disabled: spec.Disabled,
		CoolDown: spec.CoolDown.Duration, Admits: admits(spec, labelsOf),
	}, nil
}

// poolParts returns a pool's addresses, by family. Neither its gateway nor, of
// a cidr, network and broadcast address are among them.
func poolParts(obj *v1alpha1.IPPool) ([]ipam.Pool, error) {
	subnets, err := poolSubnets(&obj.Spec)
	if err != nil {
		return nil, err
	}
	var parts []ipam.Pool
	for _, is4 := range [...]bool{true, false} {
		var own []ipam.Subnet
		for _, s := range subnets {
			if s.Prefix.Addr().Is4() == is4 {
				own = append(own, s)
			}
		}
		if len(own) == 0 {
			continue
		}
		part, err := ipam.NewPool(obj.Name, own...)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return nil, errors.New("has neither cidrs nor ranges")
	}
	return parts, nil
}

func poolSubnets(spec *v1alpha1.IPPoolSpec) ([]ipam.Subnet, error) {
	var subnets []ipam.Subnet
	for _, text := range spec.CIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("cidrs: %q is not a prefix", text)
		}
		subnets = append(subnets, ipam.Subnet{Prefix: prefix})
	}
	for _, r := range spec.Ranges {
		first, err := parseAddr(r.First)
		if err != nil {
			return nil, fmt.Errorf("ranges: %w", err)
		}
		last, err := parseAddr(r.Last)
		if err != nil {
			return nil, fmt.Errorf("ranges: %w", err)
		}
		subnets = append(subnets, ipam.Subnet{Prefix: common(first, last), First: first, Last: last})
	}
	return subnets, withhold(spec, subnets)
}

// withhold enters what is never given into the subnets that have it.
func withhold(spec *v1alpha1.IPPoolSpec, subnets []ipam.Subnet) error {
	var never []netip.Prefix
	for _, text := range spec.Exclude {
		prefix, err := addrOrPrefix(text)
		if err != nil {
			return fmt.Errorf("exclude: %w", err)
		}
		never = append(never, prefix)
	}
	if spec.Gateway != "" {
		gateway, err := parseAddr(spec.Gateway)
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		never = append(never, netip.PrefixFrom(gateway, gateway.BitLen()))
	}
	for i := range subnets {
		for _, prefix := range never {
			if prefix.Overlaps(subnets[i].Prefix) {
				subnets[i].Exclude = append(subnets[i].Exclude, prefix)
			}
		}
	}
	return nil
}

func addrOrPrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Masked(), nil
	}
	addr, err := parseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// common returns the longest prefix that has both addresses.
func common(a, b netip.Addr) netip.Prefix {
	bits := a.BitLen()
	for bits > 0 && !netip.PrefixFrom(a, bits).Contains(b) {
		bits--
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// admits returns who may have addresses of the pool, nil for everybody.
func admits(spec *v1alpha1.IPPoolSpec, labelsOf LabelsOf) func(loadbalancer.Name) bool {
	if spec.NamespaceSelector == nil && spec.ServiceSelector == nil {
		return nil
	}
	return func(name loadbalancer.Name) bool {
		service, namespace := labelsOf(name)
		return spec.ServiceSelector.Matches(service) && spec.NamespaceSelector.Matches(namespace)
	}
}

// PoolRanges returns the addresses of a pool of any use, without those that it
// excludes. A pool for nodes gives
// those of its ranges where it has any: its cidrs are then the subnets around.
func PoolRanges(obj *v1alpha1.IPPool) ([]ipam.Range, error) {
	subnets, err := poolSubnets(&obj.Spec)
	if err != nil {
		return nil, err
	}
	var ranges []ipam.Range
	for _, s := range subnets {
		r := ipam.PrefixRange(s.Prefix)
		if s.First.IsValid() {
			r = ipam.Range{First: s.First, Last: s.Last}
		} else if obj.Spec.Use == v1alpha1.UseNode && len(obj.Spec.Ranges) > 0 {
			continue
		}
		own := []ipam.Range{r}
		for _, never := range s.Exclude {
			own = without(own, ipam.PrefixRange(never))
		}
		ranges = append(ranges, own...)
	}
	return ranges, nil
}

// without returns what is left of ranges outside of o.
func without(ranges []ipam.Range, o ipam.Range) []ipam.Range {
	var left []ipam.Range
	for _, r := range ranges {
		if !r.Overlaps(o) {
			left = append(left, r)
			continue
		}
		if r.First.Less(o.First) {
			left = append(left, ipam.Range{First: r.First, Last: o.First.Prev()})
		}
		if o.Last.Less(r.Last) {
			left = append(left, ipam.Range{First: o.Last.Next(), Last: r.Last})
		}
	}
	return left
}
