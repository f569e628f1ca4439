// SPDX-License-Identifier: Apache-2.0

package podlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/veth"
	"github.com/patchbay-net/patchbay/pkg/netns"
)

// carrierTimeout bounds the wait for the kernel to notice a carrier.
const carrierTimeout = 200 * time.Millisecond

// ErrTaken is matched by Create's error if the namespace has an interface of
// that name which is not ours.
var ErrTaken = errors.New("interface exists already")

// Link is a pod's interface as it is wanted.
type Link struct {
	HostName string           // the node's end
	Netns    *netns.Namespace // the pod's
	IfName   string           // the pod's end
	MTU      int
	MAC      [6]byte // the pod's end
	Addrs    []netip.Addr
}

// Create makes the interface, both ends up, with addresses, neighbours and
// routes, and returns the index of the node's end. One of the same HostName
// that is left from before is taken away first. If it can't make all, it
// leaves nothing.
func (l Link) Create() (index int, err error) {
	if err := l.add(); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(l.HostName))
		}
	}()
	index, _, err = Index(l.HostName)
	if err != nil {
		return 0, err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer node.Close()
	// First the node's end: the pod's has a carrier the moment it is up then.
	if err := l.setHostUp(node, index); err != nil {
		return 0, err
	}
	pod, err := l.open(l.sysctls)
	if err != nil {
		return 0, err
	}
	defer pod.Close()
	if err := l.configurePod(pod); err != nil {
		return 0, err
	}
	if err := l.leadToPod(node, index); err != nil {
		return 0, err
	}
	return index, awaitCarrier(node, index)
}

// add makes the veth.
func (l Link) add() error {
	pair := veth.Pair{
		Name: l.HostName, MAC: HostMAC(l.HostName), MTU: l.MTU, Down: true,
		Peer: veth.Peer{Name: l.IfName, MAC: l.MAC, Netns: l.Netns.FD()},
	}
	err := veth.Create(pair)
	if !errors.Is(err, veth.ErrExists) {
		return err
	}
	if err := Remove(l.HostName); err != nil {
		return err
	}
	if err := veth.Create(pair); !errors.Is(err, veth.ErrExists) {
		return err
	}
	return fmt.Errorf("create %s in %s: %w", l.IfName, l.Netns.Path(), ErrTaken)
}

// configurePod sets up the pod's end.
func (l Link) configurePod(pod *netlink.Handle) error {
	link, err := pod.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", l.IfName, err)
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in the pod: %w", l.IfName, err)
	}
	index := link.Attrs().Index
	for _, a := range l.Addrs {
		if err := pod.AddrReplace(link, podAddr(a)); err != nil {
			return fmt.Errorf("add address %s to %s in the pod: %w", a, l.IfName, err)
		}
	}
	for _, n := range l.podNeighbours(index) {
		if err := pod.NeighSet(&n); err != nil {
			return fmt.Errorf("add neighbour %s in the pod: %w", n.IP, err)
		}
	}
	for _, r := range l.podRoutes(index) {
		if err := pod.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route %s in the pod: %w", r.Dst, err)
		}
	}
	return nil
}

// open runs f in the pod's namespace and opens a netlink socket there.
func (l Link) open(f func() error) (handle *netlink.Handle, err error) {
	err = l.Netns.Do(func() error {
		if err := f(); err != nil {
			return err
		}
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("configure namespace %s: %w", l.Netns.Path(), err)
	}
	return handle, nil
}

// sysctls lets a pod with an IPv6 address use it, and believe no router.
func (l Link) sysctls() error {
	if !slices.ContainsFunc(l.Addrs, netip.Addr.Is6) {
		return nil
	}
	dir := "/proc/sys/net/ipv6/conf/" + l.IfName + "/"
	return errors.Join(
		os.WriteFile(dir+"disable_ipv6", []byte("0"), 0),
		os.WriteFile(dir+"accept_ra", []byte("0"), 0),
	)
}

// setHostUp sets up the node's end.
func (l Link) setHostUp(node *netlink.Handle, index int) error {
	if err := l.hostSysctls(); err != nil {
		return fmt.Errorf("configure %s: %w", l.HostName, err)
	}
	if err := node.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}); err != nil {
		return fmt.Errorf("set %s up: %w", l.HostName, err)
	}
	return nil
}

// leadToPod leads the node's packets for the pod to it.
func (l Link) leadToPod(node *netlink.Handle, index int) error {
	for _, n := range l.hostNeighbours(index) {
		if err := node.NeighSet(&n); err != nil {
			return fmt.Errorf("add neighbour %s on %s: %w", n.IP, l.HostName, err)
		}
	}
	for _, r := range l.hostRoutes(index) {
		if err := node.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route %s to %s: %w", r.Dst, l.HostName, err)
		}
	}
	return nil
}

// hostSysctls keeps the kernel from checking sources, which the agent's program
// does: the kernel's check would drop replies to Services that the node itself
// called, from an end without addresses. And it keeps the end without a
// link-local address: nobody would ask for it, everybody who watches the node's
// addresses would hear of it.
func (l Link) hostSysctls() error {
	err := os.WriteFile("/proc/sys/net/ipv4/conf/"+l.HostName+"/rp_filter", []byte("0"), 0)
	if err != nil {
		return err
	}
	const none = "1"
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+l.HostName+"/addr_gen_mode", []byte(none), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a node without IPv6
	}
	return err
}

// awaitCarrier waits, not for long, until the kernel has noticed that the node's
// end has a carrier; what is sent before is lost. From 6.8 on it notices when
// asked for the link. A kernel that is later than that isn't waited for.
func awaitCarrier(node *netlink.Handle, index int) error {
	deadline := time.NewTimer(carrierTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		link, err := node.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("find the node's end: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-deadline.C:
			return nil
		case <-tick.C:
		}
	}
}

// podAddr is an address alone, usable at once: no other host can have it.
func podAddr(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: single(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

// gateways returns the gateway of each family that the pod has.
func (l Link) gateways() []netip.Addr {
	var gateways []netip.Addr
	for _, a := range l.Addrs {
		if g := Gateway(a); !slices.Contains(gateways, g) {
			gateways = append(gateways, g)
		}
	}
	return gateways
}

func (l Link) podNeighbours(index int) []netlink.Neigh {
	var neighbours []netlink.Neigh
	for _, g := range l.gateways() {
		neighbours = append(neighbours, neighbour(index, g, HostMAC(l.HostName)))
	}
	return neighbours
}

// podRoutes returns the pod's routes to the node, and to itself: the kernel
// makes an IPv6 address its own on a work queue, also where it needn't look for
// duplicates, and would drop what comes in before. Behind a busy queue that may
// be seconds.
func (l Link) podRoutes(index int) []netlink.Route {
	var routes []netlink.Route
	for _, a := range l.Addrs {
		if a.Is6() {
			routes = append(routes, netlink.Route{LinkIndex: index, Dst: single(a), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL})
		}
	}
	for _, g := range l.gateways() {
		all := netip.PrefixFrom(g, 0).Masked()
		routes = append(routes,
			netlink.Route{LinkIndex: index, Dst: single(g), Scope: netlink.SCOPE_LINK},
			netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: g.AsSlice()})
	}
	return routes
}

func (l Link) hostNeighbours(index int) []netlink.Neigh {
	var neighbours []netlink.Neigh
	for _, a := range l.Addrs {
		neighbours = append(neighbours, neighbour(index, a, l.MAC))
	}
	return neighbours
}

func (l Link) hostRoutes(index int) []netlink.Route {
	var routes []netlink.Route
	for _, a := range l.Addrs {
		routes = append(routes, netlink.Route{LinkIndex: index, Dst: single(a), Scope: netlink.SCOPE_LINK, Protocol: netdev.Protocol})
	}
	return routes
}

func neighbour(index int, a netip.Addr, mac [6]byte) netlink.Neigh {
	family := netlink.FAMILY_V6
	if a.Is4() {
		family = netlink.FAMILY_V4
	}
	return netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:]}
}

func single(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
