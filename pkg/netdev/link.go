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
	AltNames     []string       // other names that it goes by
	Dynamic      Dynamic        // what of its configuration comes from the network
}

// Dynamic tells of each family whether an interface has a global address that
// came by DHCP or router advertisement, and may change or go by itself.
type Dynamic struct{ IPv4, IPv6 bool }

// Of tells it of the family of addr.
func (d Dynamic) Of(addr netip.Addr) bool {
	if addr.Is4() {
		return d.IPv4
	}
	return d.IPv6
}

// Families names those that it tells of, as the objects do.
func (d Dynamic) Families() (names []string) {
	if d.IPv4 {
		names = append(names, "IPv4")
	}
	if d.IPv6 {
		names = append(names, "IPv6")
	}
	return names
}

// Named tells whether the link goes by that name.
func (l Link) Named(name string) bool { return l.Name == name || slices.Contains(l.AltNames, name) }

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
	out, err := listWays()
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, l := range raw {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || IsPodLink(a.Name) {
			continue
		}
		of := addrs[a.Index]
		if of == nil {
			of = &linkAddrs{}
		}
		of.dynamic.IPv4 = of.dynamic.IPv4 || slices.Contains(out.dhcp, a.Index)
		links = append(links, Link{
			Index: a.Index, Name: a.Name, Kind: l.Type(), MAC: toMAC(a.HardwareAddr), MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Master: a.MasterIndex,
			Addrs: of.global, DefaultRoute: slices.Contains(out.defaults, a.Index),
			AltNames: a.AltNames, Dynamic: of.dynamic,
		})
	}
	slices.SortFunc(links, func(a, b Link) int { return a.Index - b.Index })
	return links, nil
}

// linkAddrs are the global addresses of a link.
type linkAddrs struct {
	global  []netip.Prefix
	dynamic Dynamic
}

// addrsByLink lists the global addresses, those that failed duplicate address
// detection left out.
func addrsByLink() (map[int]*linkAddrs, error) {
	raw, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := make(map[int]*linkAddrs)
	for _, a := range raw {
		p := toPrefix(a.IPNet)
		if a.Flags&unix.IFA_F_DADFAILED != 0 || !p.Addr().IsGlobalUnicast() {
			continue
		}
		of := byLink[a.LinkIndex]
		if of == nil {
			of = &linkAddrs{}
			byLink[a.LinkIndex] = of
		}
		of.global = append(of.global, p)
		// What was set by hand is permanent; what was leased or advertised isn't,
		// even where its lifetime is endless.
		of.dynamic.IPv4 = of.dynamic.IPv4 || p.Addr().Is4() && a.Flags&unix.IFA_F_PERMANENT == 0
		of.dynamic.IPv6 = of.dynamic.IPv6 || p.Addr().Is6() && a.Flags&unix.IFA_F_PERMANENT == 0
	}
	for _, of := range byLink {
		slices.SortStableFunc(of.global, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	}
	return byLink, nil
}

// ways are links by what routes of the main table lead out of them.
type ways struct {
	defaults []int
	dhcp     []int // IPv4 routes that a DHCP client has set: some set addresses without a lifetime
}

func listWays() (ways, error) {
	raw, err := Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return ways{}, fmt.Errorf("list routes: %w", err)
	}
	var w ways
	for _, r := range raw {
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.Protocol == unix.RTPROT_DHCP && r.Family == netlink.FAMILY_V4 {
			w.dhcp = append(w.dhcp, r.LinkIndex)
		}
		if r.Dst != nil && toPrefix(r.Dst).Bits() != 0 {
			continue
		}
		w.defaults = append(w.defaults, r.LinkIndex)
		for _, hop := range r.MultiPath {
			w.defaults = append(w.defaults, hop.LinkIndex)
		}
	}
	return w, nil
}

// LinkIndex returns the index of a link, zero if there is none of that name.
func LinkIndex(name string) (int, error) {
	link, err := FindLink(name)
	if err != nil || link == nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// RemoveLink removes the link of that name; one that isn't there is no error.
func RemoveLink(name string) error {
	link, err := FindLink(name)
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

// FindLink returns nil without an error if there is no such link.
func FindLink(name string) (netlink.Link, error) {
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
