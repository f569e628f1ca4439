// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"net/netip"

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
