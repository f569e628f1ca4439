// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
)

// look collects what routes are judged by. A node's agent knows that it is one;
// without an agent the switches tell the device's host.
func (o Options) look() (facts, error) {
	links, err := netdev.Links()
	if err != nil {
		return facts{}, err
	}
	f := facts{links: links, cluster: o.Cluster}
	for _, l := range links {
		if !o.IsNode && (l.Name == switches.InternalBridge || l.Name == switches.ExternalBridge) {
			f.device = true
		}
	}
	raw, err := netdev.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return facts{}, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range raw {
		dst, ok := destination(r)
		if ok && r.Protocol != netdev.CustomProtocol {
			f.foreign = append(f.foreign, Foreign{Dst: dst, Metric: r.Priority, Link: r.LinkIndex, Owner: owner(r.Protocol)})
		}
	}
	return f, nil
}

// destination returns where a unicast route leads, if it isn't a default route.
func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil || r.Type != unix.RTN_UNICAST {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok && bits > 0
}

// owner names who sets routes of a protocol.
func owner(p netlink.RouteProtocol) string {
	switch p {
	case unix.RTPROT_KERNEL:
		return "the interface's own subnet"
	case unix.RTPROT_DHCP:
		return "DHCP"
	case unix.RTPROT_RA:
		return "a router advertisement"
	case netdev.Protocol:
		return "Patchbay for the cluster"
	}
	return fmt.Sprintf("another program (protocol %s)", p)
}

// apply makes the verdicts' routes those in the kernel. What the kernel refuses
// becomes a verdict.
func apply(verdicts []Verdict) error {
	var want []netdev.Route
	for _, v := range verdicts {
		if v.State == Applied {
			want = append(want, v.route())
		}
	}
	refused, err := netdev.SyncRoutesOf(netdev.CustomProtocol, want)
	errs := []error{err}
	for i := range verdicts {
		v := &verdicts[i]
		if why := refused[v.route()]; v.State == Applied && why != nil {
			v.State, v.Message = Refused, why.Error()
			errs = append(errs, why)
		}
	}
	return errors.Join(errs...)
}

func (v Verdict) route() netdev.Route {
	return netdev.Route{Dst: v.Dst, Via: v.Via, Link: v.link, Metric: v.Metric}
}
