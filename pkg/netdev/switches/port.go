// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
)

// findPort returns the port of that name if a switch may have it.
func findPort(name string) (netlink.Link, error) {
	link, err := netdev.FindLink(name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		return nil, fmt.Errorf("port %s: no such interface", name)
	}
	if err := checkPort(link); err != nil {
		return nil, err
	}
	bridge, err := findBridge(ExternalBridge)
	if err != nil {
		return nil, err
	}
	if parent, err := netlink.LinkByIndex(link.Attrs().ParentIndex); err == nil && link.Type() == "vlan" {
		if err := checkPort(parent); err != nil {
			return nil, fmt.Errorf("port %s: %w", name, err)
		}
	}
	if m := link.Attrs().MasterIndex; m != 0 && (bridge == nil || bridge.Attrs().Index != m) {
		return nil, fmt.Errorf("port %s belongs to %s", name, linkName(m))
	}
	return link, nil
}

// checkPort returns why a link of its kind can't be a switch's port.
func checkPort(link netlink.Link) error {
	attrs := link.Attrs()
	switch kind := link.Type(); {
	case kind == "bond" || kind == "team":
		return fmt.Errorf("port %s is a %s: a teamed port can't be a switch's uplink", attrs.Name, kind)
	case kind == "bridge" || attrs.Flags&net.FlagLoopback != 0 || leg.IsHostName(attrs.Name) || netdev.IsPodLink(attrs.Name):
		return fmt.Errorf("port %s is a %s, not a port of the device", attrs.Name, kind)
	case attrs.EncapType != "ether":
		return fmt.Errorf("port %s has no Ethernet (%s): only what has can be on a switch", attrs.Name, attrs.EncapType)
	case isWireless(attrs.Name):
		return fmt.Errorf("port %s is wireless: an access point takes frames of its own stations alone, not of those on a switch", attrs.Name)
	}
	return nil
}

func isWireless(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "phy80211"))
	return err == nil
}

func linkName(index int) string {
	if link, err := netlink.LinkByIndex(index); err == nil {
		return link.Type() + " " + link.Attrs().Name
	}
	return fmt.Sprintf("link %d", index)
}

// enslave makes the port one of the bridge's and hands its addresses and routes
// over. Until the bridge can send, which takes the kernel a moment, packets
// leave by the port as they did. Where that fails the port stays as it was.
func enslave(port, bridge netlink.Link) error {
	name := port.Attrs().Name
	taken := port.Attrs().MasterIndex != bridge.Attrs().Index
	if taken {
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("add port %s to %s: %w", name, bridge.Attrs().Name, err)
		}
	}
	err := awaitRunning(port, bridge)
	if err == nil {
		err = handOver(port, bridge)
	}
	if err != nil && taken {
		return errors.Join(err, netlink.LinkSetNoMaster(port))
	}
	if err != nil {
		return err
	}
	return netdev.SyncAddrs(port, nil, netdev.ScopeGlobal)
}

// handOver gives one link the other's addresses and routes: all, or none. The
// addresses are then on both.
func handOver(from, to netlink.Link) error {
	added, err := copyAddrs(from, to)
	if err == nil {
		err = copyNeighbours(from, to)
	}
	if err == nil {
		err = moveRoutes(from, to)
	}
	if err == nil {
		return nil
	}
	errs := []error{fmt.Errorf("addresses and routes stay on %s: %w", from.Attrs().Name, err)}
	for _, a := range added {
		errs = append(errs, a.dropFrom(to))
	}
	return errors.Join(errs...)
}

// How long a bridge may take to run once a port of it does, and between two looks.
const (
	startTime = time.Second
	startLook = 2 * time.Millisecond
)

// awaitRunning waits until the bridge runs. It won't while the port has no carrier.
func awaitRunning(port, bridge netlink.Link) error {
	for began := time.Now(); time.Since(began) < startTime; <-time.After(startLook) {
		now, err := netlink.LinkByIndex(bridge.Attrs().Index)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", bridge.Attrs().Name, err)
		}
		if now.Attrs().OperState == netlink.OperUp || port.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
			return nil
		}
	}
	return nil
}

// release is the reverse of enslave. The port sends while it is still the bridge's;
// it stays that where its addresses and routes can't be given back.
func release(port, bridge netlink.Link) error {
	if err := handOver(bridge, port); err != nil {
		return err
	}
	if err := netdev.SyncAddrs(bridge, nil, netdev.ScopeGlobal); err != nil {
		return err
	}
	if err := netlink.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("take port %s from %s: %w", port.Attrs().Name, bridge.Attrs().Name, err)
	}
	return nil
}

// releaseOthers gives the remembered port of the external bridge, unless it has
// the given name, its addresses and routes back, and leaves it as it was before.
// What else is on the bridge are legs.
func releaseOthers(keep string) error {
	bridge, err := findBridge(ExternalBridge)
	if err != nil || bridge == nil {
		return err
	}
	links, err := netdev.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	before := recall(bridge)
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex != bridge.Attrs().Index || a.Name != before.uplink() || a.Name == keep {
			continue
		}
		if err := release(l, bridge); err != nil {
			return err
		}
	}
	if before.port == "" || before.uplink() == keep {
		return nil
	}
	return before.restore(bridge)
}

// moveRoutes has all routes over one link, but those that come with an address,
// go over the other; those directly on the link first, as gateways need them. If
// one can't be moved, those before it go back.
func moveRoutes(from, to netlink.Link) error {
	routes, err := routesOver(from)
	if err != nil {
		return err
	}
	for i, r := range routes {
		err := moveRoute(r, from, to)
		if err == nil {
			continue
		}
		errs := []error{err}
		for _, back := range routes[:i] {
			errs = append(errs, moveRoute(*moved(back, from.Attrs().Index, to.Attrs().Index), to, from))
		}
		return errors.Join(errs...)
	}
	return nil
}

func moveRoute(r netlink.Route, from, to netlink.Link) error {
	if err := netlink.RouteReplace(moved(r, from.Attrs().Index, to.Attrs().Index)); err != nil {
		return fmt.Errorf("move route %s to %s: %w", r.Dst, to.Attrs().Name, err)
	}
	if len(r.MultiPath) > 0 {
		return nil // it was replaced
	}
	if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route %s over %s: %w", r.Dst, from.Attrs().Name, err)
	}
	return nil
}

// moved is a route with one link in place of another.
func moved(r netlink.Route, from, to int) *netlink.Route {
	const state = int(netlink.FLAG_PERVASIVE) | unix.RTNH_F_LINKDOWN | unix.RTNH_F_DEAD
	if r.LinkIndex == from {
		r.LinkIndex = to
	}
	r.Flags &^= state
	hops := r.MultiPath
	r.MultiPath = nil
	for _, hop := range hops {
		other := *hop
		if other.LinkIndex == from {
			other.LinkIndex = to
		}
		other.Flags &^= state
		r.MultiPath = append(r.MultiPath, &other)
	}
	return &r
}

// routesOver lists the unicast routes over a link in all tables, without those
// that the kernel makes by itself.
func routesOver(link netlink.Link) ([]netlink.Route, error) {
	addrs, err := addresses(link)
	if err != nil {
		return nil, err
	}
	all, err := netdev.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	index := link.Attrs().Index
	routes := slices.DeleteFunc(all, func(r netlink.Route) bool {
		over := r.LinkIndex == index || slices.ContainsFunc(r.MultiPath, func(h *netlink.NexthopInfo) bool { return h.LinkIndex == index })
		return !over || r.Type != unix.RTN_UNICAST || kernelMakes(r, addrs)
	})
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return hops(a) - hops(b) })
	return routes, nil
}

// kernelMakes tells whether a route comes with one of a link's addresses, or
// with its link-local one. Another may say that it is the kernel's and isn't.
func kernelMakes(r netlink.Route, addrs []address) bool {
	if r.Protocol != unix.RTPROT_KERNEL {
		return false
	}
	local := r.Dst != nil && r.Dst.IP.To4() == nil && r.Dst.IP.IsLinkLocalUnicast()
	return local || slices.ContainsFunc(addrs, func(a address) bool { return a.makes(r) })
}

// hops is 0 for a route directly on the link, 1 for one by a gateway.
func hops(r netlink.Route) int {
	if r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 {
		return 0
	}
	return 1
}

// copyNeighbours gives a link the addresses that somebody has fixed on another.
func copyNeighbours(from, to netlink.Link) error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netdev.Dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(from.Attrs().Index, family) })
		if err != nil {
			return fmt.Errorf("list neighbours on %s: %w", from.Attrs().Name, err)
		}
		for _, n := range list {
			if n.State != unix.NUD_PERMANENT {
				continue
			}
			n.LinkIndex, n.Family, n.MasterIndex = to.Attrs().Index, family, 0
			if err := netlink.NeighSet(&n); err != nil {
				errs = append(errs, fmt.Errorf("fix neighbour %s on %s: %w", n.IP, to.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}
