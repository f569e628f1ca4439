// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelName is the name of the VXLAN device.
const TunnelName = "pb-vxlan"

// TunnelMAC returns the MAC address of the VXLAN device, the same on every node:
// a frame that leaves one is addressed to the other without asking, as the
// device does neither ARP nor neighbour discovery.
func TunnelMAC() [6]byte { return [6]byte{0x02, 'p', 'b', 0x50, 0x42, 0x01} }

// EnsureTunnel makes the VXLAN device in external mode: the peer and the VNI
// are the datapath's to set packet by packet. It returns the link's index. A
// device of that name with another port is made anew.
func EnsureTunnel(port uint16, mtu int) (int, error) {
	link, err := linkByName(TunnelName)
	if err != nil {
		return 0, err
	}
	if v, ok := link.(*netlink.Vxlan); link != nil && (!ok || !v.FlowBased || v.Port != int(port)) {
		if err := RemoveLink(TunnelName); err != nil {
			return 0, err
		}
		link = nil
	}
	if link == nil {
		if link, err = addTunnel(port, mtu); err != nil {
			return 0, err
		}
	}
	return link.Attrs().Index, setTunnel(link, mtu)
}

func addTunnel(port uint16, mtu int) (netlink.Link, error) {
	attrs, mac := netlink.NewLinkAttrs(), TunnelMAC()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = TunnelName, mtu, net.HardwareAddr(mac[:])
	err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(port)})
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add %s: UDP port %d is taken by another tunnel; set routing.vxlan.port: %w", TunnelName, port, err)
	}
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", TunnelName, err)
	}
	return linkByName(TunnelName)
}

// setTunnel brings an existing device to what it must be, changing only what differs.
func setTunnel(link netlink.Link, mtu int) error {
	a, mac := link.Attrs(), TunnelMAC()
	var errs []error
	if toMAC(a.HardwareAddr) != mac {
		errs = append(errs, netlink.LinkSetHardwareAddr(link, net.HardwareAddr(mac[:])))
	}
	if a.MTU != mtu {
		errs = append(errs, netlink.LinkSetMTU(link, mtu))
	}
	if a.RawFlags&unix.IFF_NOARP == 0 {
		errs = append(errs, netlink.LinkSetARPOff(link))
	}
	if a.Flags&net.FlagUp == 0 {
		errs = append(errs, netlink.LinkSetUp(link))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set up %s: %w", TunnelName, err)
	}
	return nil
}
