// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
)

// result adds the interface to the previous result, if there is one.
func (c *conf) result(has leased) *types100.Result {
	result := c.prev
	if result == nil {
		result = &types100.Result{}
	}
	result.CNIVersion = types100.ImplementedSpecVersion
	result.Interfaces = append(result.Interfaces,
		&types100.Interface{Name: c.key.Link(), Mac: c.hostMAC().String(), Mtu: c.MTU},
		&types100.Interface{Name: c.args.IfName, Mac: c.podMAC().String(), Mtu: c.MTU, Sandbox: c.args.Netns})
	inside := len(result.Interfaces) - 1
	for _, a := range has.addrs {
		gateway := podlink.Gateway(a)
		result.IPs = append(result.IPs, &types100.IPConfig{
			Interface: &inside, Address: prefix(a, a.BitLen()), Gateway: gateway.AsSlice(),
		})
		result.Routes = addDefault(result.Routes, gateway)
	}
	result.DNS = c.dns(result.DNS, has.dns)
	return result
}

// addDefault adds the default route through a gateway, once.
func addDefault(routes []*types.Route, gateway netip.Addr) []*types.Route {
	for _, r := range routes {
		if r.GW.Equal(gateway.AsSlice()) {
			return routes
		}
	}
	all := netip.PrefixFrom(gateway, 0).Masked().Addr()
	return append(routes, &types.Route{Dst: prefix(all, 0), GW: gateway.AsSlice()})
}

// dns returns the configured name servers, or the IPAM plugin's, or those of
// the plugins before.
func (c *conf) dns(previous, leased types.DNS) types.DNS {
	switch {
	case !c.DNS.IsEmpty():
		return c.DNS
	case !leased.IsEmpty():
		return leased
	}
	return previous
}

func prefix(a netip.Addr, bits int) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
