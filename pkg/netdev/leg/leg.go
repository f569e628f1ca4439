// SPDX-License-Identifier: Apache-2.0

// Package leg plugs a network namespace into a bridge of this one: the leg of a
// node, a VM or a pod on a virtual switch. The leg's host end has a name that
// follows from whom it is for, and says so in its alias, so that it is found
// again without any record.
package leg

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/veth"
)

// prefix opens the names of host ends; digits hex digits follow.
const (
	prefix = "pbs"
	digits = 10
)

// aliasPrefix opens the alias of host ends; the network's name follows.
const aliasPrefix = "leg of "

// ErrNoBridge says that the switch isn't there.
var ErrNoBridge = errors.New("no such switch")

// HostName returns the name of the host end of a container's leg.
func HostName(containerID, ifName string) string {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s/%s", containerID, ifName)
	return prefix + fmt.Sprintf("%016x", sum.Sum64())[:digits]
}

// IsHostName tells whether name is a host end's.
func IsHostName(name string) bool {
	hexDigits, ok := strings.CutPrefix(name, prefix)
	return ok && len(hexDigits) == digits && strings.Trim(hexDigits, "0123456789abcdef") == ""
}

// Leg is a leg as wanted.
type Leg struct {
	HostName string
	// Network is the CNI network that the leg belongs to.
	Network string
	// Bridge is the switch.
	Bridge string
	// Netns is a descriptor of the namespace that is plugged in, IfName its interface there.
	Netns  int
	IfName string
	// MTU of 0 is the bridge's.
	MTU int
	// MAC of zero lets the kernel choose.
	MAC    [6]byte
	Addrs  []netip.Prefix
	Routes []Route
	// Guard drops at the host end what the leg says of addresses that aren't its
	// own, and by another MAC address than MAC, which it needs. A node's leg has none: it answers for LoadBalancer addresses.
	Guard bool
	// Probe asks first whether a machine on the switch has one of the addresses.
	Probe bool
}

// Route is a route over the leg.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // zero: directly on the leg
}

// Ends is what a leg was made of.
type Ends struct {
	HostMAC, MAC [6]byte
	MTU          int
}

// Create makes the leg, up and with its addresses and routes. Returns
// ErrNoBridge if the switch isn't there, ErrInUse if another machine has an address.
// If it can't make all of it, it leaves nothing.
func Create(l Leg) (ends Ends, err error) {
	bridge, err := findBridge(l.Bridge)
	if err != nil {
		return Ends{}, err
	}
	if l.MTU == 0 {
		l.MTU = bridge.Attrs().MTU
	}
	if l.Probe && len(l.Addrs) > 0 {
		at := &net.Interface{Index: bridge.Attrs().Index, Name: l.Bridge, HardwareAddr: bridge.Attrs().HardwareAddr}
		if err := probe(at, l.Addrs); err != nil {
			return Ends{}, err
		}
	}
	pair := veth.Pair{
		Name: l.HostName, MTU: l.MTU, Master: bridge.Attrs().Index,
		Peer: veth.Peer{Name: l.IfName, MAC: l.MAC, Netns: l.Netns},
	}
	if err := veth.Create(pair); err != nil {
		return Ends{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(l.HostName))
		}
	}()
	host, err := netlink.LinkByName(l.HostName)
	if err != nil {
		return Ends{}, fmt.Errorf("find leg %s: %w", l.HostName, err)
	}
	if err := netlink.LinkSetAlias(host, aliasPrefix+l.Network); err != nil {
		return Ends{}, fmt.Errorf("set alias of leg %s: %w", l.HostName, err)
	}
	if l.Guard {
		if err := guard(host.Attrs().Index, l.MAC, l.addrs()); err != nil {
			return Ends{}, fmt.Errorf("guard leg %s: %w", l.HostName, err)
		}
	}
	mac, err := l.configure(portOf(bridge.Attrs().Alias))
	if err != nil {
		return Ends{}, err
	}
	ends = Ends{MAC: mac, MTU: l.MTU}
	copy(ends.HostMAC[:], host.Attrs().HardwareAddr)
	return ends, nil
}

// addrs are the leg's addresses alone.
func (l Leg) addrs() []netip.Addr {
	addrs := make([]netip.Addr, len(l.Addrs))
	for i, p := range l.Addrs {
		addrs[i] = p.Addr()
	}
	return addrs
}

// portOf reads the device's port out of the alias of an external switch; empty if
// there is none.
func portOf(alias string) string {
	rest, ok := strings.CutPrefix(alias, "patchbay: ")
	port, _, named := strings.Cut(rest, " vlan ")
	if !ok || !named {
		return ""
	}
	return port
}

// configure sets the leg's inner end up and returns its MAC address. A leg on a
// port's switch goes by the port's name, too: custom routes name it.
func (l Leg) configure(port string) (mac [6]byte, err error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(l.Netns))
	if err != nil {
		return mac, fmt.Errorf("open netlink in the namespace: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(l.IfName)
	if err != nil {
		return mac, fmt.Errorf("find %s: %w", l.IfName, err)
	}
	copy(mac[:], link.Attrs().HardwareAddr)
	if port != "" && port != l.IfName {
		if err := h.LinkAddAltName(link, port); err != nil && !errors.Is(err, unix.EEXIST) {
			return mac, fmt.Errorf("name %s %s: %w", l.IfName, port, err)
		}
	}
	if l.Guard {
		const fromMAC = 0 // the link-local address that the guard lets pass, whatever the namespace prefers
		if err := h.LinkSetIP6AddrGenMode(link, fromMAC); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return mac, fmt.Errorf("derive the link-local address of %s: %w", l.IfName, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return mac, fmt.Errorf("set %s up: %w", l.IfName, err)
	}
	for _, p := range l.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // its lease is ours alone
		}
		if err := h.AddrReplace(link, addr); err != nil {
			return mac, fmt.Errorf("add address %s to %s: %w", p, l.IfName, err)
		}
	}
	for _, r := range l.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst), Gw: r.Via.AsSlice()}
		if err := h.RouteAdd(route); err != nil {
			return mac, fmt.Errorf("add route %s to %s: %w", r.Dst, l.IfName, err)
		}
	}
	return mac, nil
}

// Check returns what is wrong with a leg that was made from l.
func Check(l Leg) error {
	bridge, err := findBridge(l.Bridge)
	if err != nil {
		return err
	}
	host, err := netlink.LinkByName(l.HostName)
	if err != nil {
		return fmt.Errorf("find leg %s: %w", l.HostName, err)
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index {
		return fmt.Errorf("leg %s is not on switch %s", l.HostName, l.Bridge)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(l.Netns))
	if err != nil {
		return fmt.Errorf("open netlink in the namespace: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.IfName, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", l.IfName)
	}
	addrs, err := netdev.Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.IfName, err)
	}
	have := make(map[string]bool, len(addrs))
	for _, a := range addrs {
		have[a.IPNet.String()] = true
	}
	for _, p := range l.Addrs {
		if !have[p.String()] {
			return fmt.Errorf("%s has lost address %s", l.IfName, p)
		}
	}
	return nil
}

// Remove removes the leg of that host name; one that isn't there is no error.
func Remove(hostName string) error { return netdev.RemoveLink(hostName) }

// RemoveOthers removes the legs of a network whose host ends are not in keep.
func RemoveOthers(network string, keep map[string]bool) error {
	links, err := netdev.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if IsHostName(a.Name) && a.Alias == aliasPrefix+network && !keep[a.Name] {
			errs = append(errs, Remove(a.Name))
		}
	}
	return errors.Join(errs...)
}

// Exists tells whether there is a host end of that name.
func Exists(hostName string) (bool, error) {
	_, err := netlink.LinkByName(hostName)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return false, nil
	}
	return err == nil, err
}

// findBridge returns the bridge of that name, or ErrNoBridge.
func findBridge(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, fmt.Errorf("%w: %s", ErrNoBridge, name)
	}
	if err != nil {
		return nil, fmt.Errorf("find switch %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%w: %s is a %s", ErrNoBridge, name, link.Type())
	}
	return link, nil
}

// BridgeExists returns nil, or ErrNoBridge if the switch isn't there.
func BridgeExists(name string) error {
	_, err := findBridge(name)
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
