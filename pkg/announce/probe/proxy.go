// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// Proxied tells whether a machine that answered on a NIC is a router that
// answers for everything, of either family of the NIC's subnets: then its
// answers say nothing. It takes up to 0.6 s.
func Proxied(ctx context.Context, link int, subnets []netip.Prefix, mac [6]byte) (bool, error) {
	for _, is4 := range [...]bool{true, false} {
		i := slices.IndexFunc(subnets, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 && !p.Addr().IsLinkLocalUnicast() })
		if i < 0 {
			continue
		}
		all, err := answersAll(ctx, openSocket, Target{Addr: subnets[i].Addr(), Link: link, Subnets: subnets}, mac, rand.N[time.Duration])
		if all || err != nil {
			return all, err
		}
	}
	return false, nil
}

// answersAll tells whether a machine answers for addresses that nobody has: a
// router with proxy ARP, whose answer says nothing of a particular address.
//
// Of IPv4, one set of controls is addresses that nobody on any network has
// (documentation's); another is the subnet's own network and broadcast address
// with two hosts of it, for a router that answers inside the subnet only. All of
// one set must be answered: a machine that happens to have many addresses isn't
// taken for a router. Of IPv6, the controls are random hosts of the subnet.
func answersAll(ctx context.Context, open opener, t Target, mac [6]byte, random func(time.Duration) time.Duration) (bool, error) {
	for _, controls := range controlSets(t, func(n int) int { return int(random(time.Duration(n))) }) {
		if len(controls) < 2 {
			continue
		}
		found, err := ask(ctx, open, t.Link, func(m [6]byte) bool { return m == mac }, controls...)
		if err != nil {
			return false, err
		}
		if len(found) == len(controls) {
			return true, nil
		}
	}
	return false, nil
}

// mayBeProxied tells whether a claim may be the answer of a machine that answers
// for everything. To duplicate address detection the answer looks like any
// other advertisement (RFC 4861, 7.2.4).
func mayBeProxied(s frame.Sighting) bool { return s.Answer || s.Addr.Is6() }

// controlSets returns the sets of addresses to ask for.
func controlSets(t Target, random func(n int) int) [][]netip.Addr {
	subnet := netip.PrefixFrom(t.Addr, 64).Masked()
	if t.Addr.Is4() {
		subnet = netip.Prefix{}
	}
	for _, p := range t.Subnets {
		if p.Contains(t.Addr) {
			subnet = p.Masked()
		}
	}
	if t.Addr.Is6() {
		return [][]netip.Addr{{randomHost(subnet, random), randomHost(subnet, random), randomHost(subnet, random)}}
	}
	sets := [][]netip.Addr{documentation(t, random)}
	if subnet.IsValid() && subnet.Bits() <= 28 {
		last := lastOf(subnet)
		hosts := []netip.Addr{subnet.Addr(), last}
		for len(hosts) < 4 {
			if addr := randomHost(subnet, random); addr != t.Addr && !slices.Contains(hosts, addr) {
				hosts = append(hosts, addr)
			}
		}
		sets = append(sets, hosts)
	}
	return sets
}

// documentation returns addresses of RFC 5737's networks, but of one that is
// in use here.
func documentation(t Target, random func(n int) int) []netip.Addr {
	var controls []netip.Addr
	for _, net := range [...][3]byte{{192, 0, 2}, {198, 51, 100}, {203, 0, 113}} {
		addr := netip.AddrFrom4([4]byte{net[0], net[1], net[2], byte(1 + random(254))})
		whole := netip.PrefixFrom(addr, 24)
		if !whole.Contains(t.Addr) && !slices.ContainsFunc(t.Subnets, whole.Overlaps) {
			controls = append(controls, addr)
		}
	}
	return controls
}

// randomHost returns an address of the prefix by chance.
func randomHost(prefix netip.Prefix, random func(n int) int) netip.Addr {
	b := prefix.Addr().AsSlice()
	for i := range b {
		free := min(8, max(0, 8*(i+1)-prefix.Bits()))
		b[i] |= byte(random(256)) & byte(1<<free-1)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func lastOf(prefix netip.Prefix) netip.Addr {
	b := prefix.Addr().AsSlice()
	for i := range b {
		b[i] |= byte(1<<min(8, max(0, 8*(i+1)-prefix.Bits())) - 1)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
