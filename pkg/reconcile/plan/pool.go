// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// AddressPool is an IPPool as addresses are judged by it.
func AddressPool(p *v1alpha1.IPPool) Pool {
	list := spans(p)
	pool := Pool{Name: p.Name, Contains: func(a netip.Addr) bool {
		return slices.ContainsFunc(list, func(s span) bool { return s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0 })
	}}
	if p.Spec.NodeSelector != nil {
		pool.Selects = p.Spec.NodeSelector.Matches
	}
	return pool
}

// FirstAddrs returns the first address of each of the pool's ranges: its subnets
// are told by them.
func FirstAddrs(p *v1alpha1.IPPool) []netip.Addr {
	var firsts []netip.Addr
	for _, s := range spans(p) {
		firsts = append(firsts, s.first)
	}
	return firsts
}

// span is the addresses from first to last.
type span struct{ first, last netip.Addr }

// spans are a pool's addresses; what can't be read is the source's to report.
func spans(p *v1alpha1.IPPool) []span {
	var list []span
	for _, c := range p.Spec.CIDRs {
		if cidr, err := netip.ParsePrefix(c); err == nil {
			list = append(list, span{cidr.Masked().Addr(), lastOf(cidr)})
		}
	}
	for _, rg := range p.Spec.Ranges {
		first, err1 := netip.ParseAddr(rg.First)
		last, err2 := netip.ParseAddr(rg.Last)
		if err1 == nil && err2 == nil {
			list = append(list, span{first, last})
		}
	}
	return list
}

func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
