// SPDX-License-Identifier: Apache-2.0

package podlink

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/rtnl"
)

// Check returns what is wrong with an interface that Create made: everything
// it finds, joined.
func (l Link) Check() error {
	host, err := netlink.LinkByName(l.HostName)
	if err != nil {
		return fmt.Errorf("find link %s: %w", l.HostName, err)
	}
	var pod *netlink.Handle
	err = l.Netns.Do(func() (err error) {
		pod, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("look into namespace %s: %w", l.Netns.Path(), err)
	}
	defer pod.Close()
	inside, err := pod.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", l.IfName, err)
	}
	node, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer node.Close()
	hostMAC := HostMAC(l.HostName)
	return errors.Join(
		checkEnd(host, hostMAC[:], inside.Attrs().Index),
		checkEnd(inside, l.MAC[:], host.Attrs().Index),
		l.checkAddrs(pod, inside),
		checkNeighbours(pod, inside, l.gateways(), hostMAC[:]),
		checkRoutes(pod, inside, l.podRoutes(inside.Attrs().Index)),
		checkNeighbours(node, host, l.Addrs, l.MAC[:]),
		checkRoutes(node, host, l.hostRoutes(host.Attrs().Index)),
	)
}

// checkEnd checks one end of the veth: kind, state, MAC and the other end.
func checkEnd(link netlink.Link, mac net.HardwareAddr, peer int) error {
	attrs := link.Attrs()
	switch {
	case link.Type() != "veth":
		return fmt.Errorf("%s is a %s, not a veth", attrs.Name, link.Type())
	case attrs.Flags&net.FlagUp == 0:
		return fmt.Errorf("%s is down", attrs.Name)
	case !bytes.Equal(attrs.HardwareAddr, mac):
		return fmt.Errorf("%s has MAC %s, not %s", attrs.Name, attrs.HardwareAddr, mac)
	case attrs.ParentIndex != peer:
		return fmt.Errorf("%s is connected to link %d, not %d", attrs.Name, attrs.ParentIndex, peer)
	}
	return nil
}

// checkAddrs checks that the pod's end has exactly the addresses of the lease,
// apart from link-local ones.
func (l Link) checkAddrs(pod *netlink.Handle, link netlink.Link) error {
	list, err := netdev.Dump(func() ([]netlink.Addr, error) { return pod.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of %s in the pod: %w", l.IfName, err)
	}
	var problems []error
	present := map[netip.Addr]bool{}
	for _, have := range list {
		a, _ := netip.AddrFromSlice(have.IP)
		a = a.Unmap()
		present[a] = true
		if !a.IsLinkLocalUnicast() && !slices.Contains(l.Addrs, a) {
			problems = append(problems, fmt.Errorf("%s in the pod has address %s, which is not leased to it", l.IfName, a))
		}
	}
	for _, want := range l.Addrs {
		if !present[want] {
			problems = append(problems, fmt.Errorf("%s in the pod lacks address %s", l.IfName, want))
		}
	}
	return errors.Join(problems...)
}

func checkNeighbours(handle *netlink.Handle, link netlink.Link, want []netip.Addr, mac net.HardwareAddr) error {
	have, err := netdev.Dump(func() ([]netlink.Neigh, error) { return handle.NeighList(link.Attrs().Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours on %s: %w", link.Attrs().Name, err)
	}
	var problems []error
	for _, w := range want {
		found := slices.ContainsFunc(have, func(h netlink.Neigh) bool {
			return h.IP.Equal(w.AsSlice()) && bytes.Equal(h.HardwareAddr, mac) && h.State&netlink.NUD_PERMANENT != 0
		})
		if !found {
			problems = append(problems, fmt.Errorf("%s lacks the permanent neighbour %s at %s", link.Attrs().Name, w, mac))
		}
	}
	return errors.Join(problems...)
}

func checkRoutes(handle *netlink.Handle, link netlink.Link, want []rtnl.Route) error {
	have, err := netdev.Dump(func() ([]netlink.Route, error) { return handle.RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list routes on %s: %w", link.Attrs().Name, err)
	}
	var problems []error
	for _, w := range want {
		found := slices.ContainsFunc(have, func(h netlink.Route) bool {
			return h.Dst != nil && h.Dst.String() == w.Dst.String() && h.Gw.Equal(w.Via.AsSlice())
		})
		if !found {
			problems = append(problems, fmt.Errorf("%s lacks the route to %s", link.Attrs().Name, w.Dst))
		}
	}
	return errors.Join(problems...)
}
