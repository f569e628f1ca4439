// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// NextHop returns the link that the kernel would send packets to addr out of, 0
// if it knows no way, and the gateway, zero if addr is on the link.
func NextHop(addr netip.Addr) (link int, gateway netip.Addr) {
	routes, err := netlink.RouteGet(toIP(addr))
	if err != nil || len(routes) == 0 {
		return 0, netip.Addr{}
	}
	return routes[0].LinkIndex, toAddr(routes[0].Gw)
}

// Gateways returns the next hops of all routes of the main table, by link,
// sorted, but for link-local ones.
func Gateways() (map[int][]netip.Addr, error) {
	routes, err := Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	gateways := map[int][]netip.Addr{}
	add := func(link int, via netip.Addr) {
		if via.IsValid() && !via.IsUnspecified() && !via.IsLinkLocalUnicast() && !slices.Contains(gateways[link], via) {
			gateways[link] = append(gateways[link], via)
		}
	}
	for _, r := range routes {
		add(r.LinkIndex, toAddr(r.Gw))
		for _, hop := range r.MultiPath {
			add(hop.LinkIndex, toAddr(hop.Gw))
		}
	}
	for _, list := range gateways {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	return gateways, nil
}
