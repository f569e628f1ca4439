// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelName is the name of the VXLAN device.
const TunnelName = "pb-vxlan"

// Tunnel is what the VXLAN device is to be.
type Tunnel struct {
	Port uint16
	MTU  int
	// Addrs are this node's own on it, which answer others' tests.
	Addrs []netip.Addr
}

// EnsureTunnel makes the VXLAN device in external mode: the peer and the VNI
// are the datapath's to set packet by packet. It does neither ARP nor neighbour
// discovery; the datapath takes frames to any MAC address. The kernel gives
// each node's device another one, as it must: VXLAN drops a frame from its own
// as a loop. It returns the link's index; a new device is down until
// RaiseTunnel. A device of that name with another port is made anew.
func EnsureTunnel(sysctls Sysctls, want Tunnel) (int, error) {
	link, err := FindLink(TunnelName)
	if err != nil {
		return 0, err
	}
	if v, ok := link.(*netlink.Vxlan); link != nil && (!ok || !v.FlowBased || v.Port != int(want.Port)) {
		if err := RemoveLink(TunnelName); err != nil {
			return 0, err
		}
		link = nil
	}
	if link == nil {
		if link, err = addTunnel(want.Port, want.MTU); err != nil {
			return 0, err
		}
	}
	return link.Attrs().Index, setTunnel(sysctls, link, want)
}

func addTunnel(port uint16, mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = TunnelName, mtu
	err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(port)})
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add %s: UDP port %d is taken by another tunnel; set routing.vxlan.port: %w", TunnelName, port, err)
	}
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", TunnelName, err)
	}
	return FindLink(TunnelName)
}

// setTunnel brings an existing device to what it must be, changing only what differs.
func setTunnel(sysctls Sysctls, link netlink.Link, want Tunnel) error {
	a := link.Attrs()
	errs := []error{sysctls.LoosenFilter(TunnelName)}
	if key := "net/ipv6/conf/" + TunnelName + "/addr_gen_mode"; sysctls.get(key) != "" {
		const none = "1" // no link-local address: nobody is there to hear its announcement
		errs = append(errs, sysctls.Ensure(key, none))
	}
	if a.MTU != want.MTU {
		errs = append(errs, netlink.LinkSetMTU(link, want.MTU))
	}
	addrs := make([]netip.Prefix, len(want.Addrs))
	for i, addr := range want.Addrs {
		addrs[i] = netip.PrefixFrom(addr, addr.BitLen())
	}
	errs = append(errs, SyncAddrs(link, addrs, ScopeLink))
	if a.RawFlags&unix.IFF_NOARP == 0 {
		errs = append(errs, netlink.LinkSetARPOff(link))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set up %s: %w", TunnelName, err)
	}
	return nil
}

// RaiseTunnel sets the VXLAN device up, once it has its programs.
func RaiseTunnel() error {
	link, err := FindLink(TunnelName)
	if err != nil || link == nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up %s: %w", TunnelName, err)
	}
	return nil
}
