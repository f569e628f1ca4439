// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface as far as its use as a NIC depends on it.
type Link struct {
	Index        int
	Name         string
	Kind         string // netlink's: device, veth, bridge, vxlan…
	MAC          [6]byte
	MTU          int
	Up           bool           // administratively
	Carrier      bool           // and with a cable
	Master       int            // index of the bridge or bond it is a port of
	Addrs        []netip.Prefix // global ones, usable, with their host bits
	DefaultRoute bool           // a default route of the main table leads out of it
}

// OnSubnet tells whether addr is on a subnet of the link.
func (l Link) OnSubnet(addr netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(addr) && !p.IsSingleIP() })
}

// Links lists the interfaces, by index, without loopback and pods' host ends.
func Links() ([]Link, error) {
	raw, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := addrsByLink()
	if err != nil {
		return nil, err
	}
	outs, err := defaultRoutes()
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, l := range raw {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || IsPodLink(a.Name) {
			continue
		}
		links = append(links, Link{
			Index: a.Index, Name: a.Name, Kind: l.Type(), MAC: toMAC(a.HardwareAddr), MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Master: a.MasterIndex,
			Addrs: addrs[a.Index], DefaultRoute: slices.Contains(outs, a.Index),
		})
	}
	slices.SortFunc(links, func(a, b Link) int { return a.Index - b.Index })
	return links, nil
}

// addrsByLink lists the global addresses, those that failed duplicate address
// detection left out.
func addrsByLink() (map[int][]netip.Prefix, error) {
	raw, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := make(map[int][]netip.Prefix)
	for _, a := range raw {
		p := toPrefix(a.IPNet)
		if a.Flags&unix.IFA_F_DADFAILED == 0 && p.Addr().IsGlobalUnicast() {
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], p)
		}
	}
	for _, list := range byLink {
		slices.SortStableFunc(list, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	}
	return byLink, nil
}

// defaultRoutes returns the links that default routes lead out of.
func defaultRoutes() ([]int, error) {
	raw, err := Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var links []int
	for _, r := range raw {
		if bits := toPrefix(r.Dst).Bits(); (r.Dst != nil && bits != 0) || r.Type != unix.RTN_UNICAST {
			continue
		}
		links = append(links, r.LinkIndex)
		for _, hop := range r.MultiPath {
			links = append(links, hop.LinkIndex)
		}
	}
	return links, nil
}

// LinkIndex returns the index of a link, zero if there is none of that name.
func LinkIndex(name string) (int, error) {
	link, err := linkByName(name)
	if err != nil || link == nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// RemoveLink removes the link of that name; one that isn't there is no error.
func RemoveLink(name string) error {
	link, err := linkByName(name)
	if err != nil || link == nil {
		return err
	}
	err = netlink.LinkDel(link)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// linkByName returns nil without an error if there is no such link.
func linkByName(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return link, nil
}

// PodLinks lists pods' host ends by name.
func PodLinks() (map[string]Link, error) {
	raw, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	pods := make(map[string]Link)
	for _, l := range raw {
		if a := l.Attrs(); IsPodLink(a.Name) {
			pods[a.Name] = Link{Index: a.Index, Name: a.Name, Kind: l.Type(), MAC: toMAC(a.HardwareAddr), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
		}
	}
	return pods, nil
}
