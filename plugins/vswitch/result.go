// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/plugins/cni"
)

// result is what ADD prints: the previous result, if any, and the leg.
func result(c *conf, args *cni.Args, l leg.Leg, ends leg.Ends, leased *types100.Result) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if c.prev != nil {
		r = c.prev
	}
	first := len(r.Interfaces)
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: l.Bridge},
		&types100.Interface{Name: l.HostName, Mac: net.HardwareAddr(ends.HostMAC[:]).String(), Mtu: ends.MTU},
		&types100.Interface{Name: args.IfName, Mac: net.HardwareAddr(ends.MAC[:]).String(), Mtu: ends.MTU, Sandbox: args.Netns},
	)
	for _, ip := range leased.IPs {
		ip.Interface = types100.Int(first + 2)
		r.IPs = append(r.IPs, ip)
	}
	for i, route := range leased.Routes {
		if route.GW == nil && l.Routes[i].Via.IsValid() {
			route.GW = l.Routes[i].Via.AsSlice()
		}
		r.Routes = append(r.Routes, route)
	}
	if c.DNS.IsEmpty() {
		if r.DNS.IsEmpty() {
			r.DNS = leased.DNS
		}
		return r
	}
	r.DNS = types.DNS{Nameservers: c.DNS.Nameservers, Domain: c.DNS.Domain, Search: c.DNS.Search, Options: c.DNS.Options}
	return r
}

// own returns the part of a result that is of the leg's own interface.
func own(r *types100.Result, args *cni.Args) *types100.Result {
	part := &types100.Result{}
	for _, ip := range r.IPs {
		i := ip.Interface
		if i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Name == args.IfName && r.Interfaces[*i].Sandbox != "" {
			part.IPs = append(part.IPs, ip)
		}
	}
	return part
}
