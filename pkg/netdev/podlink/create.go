// SPDX-License-Identifier: Apache-2.0

package podlink

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/rtnl"
	"github.com/patchbay-net/patchbay/pkg/netdev/veth"
	"github.com/patchbay-net/patchbay/pkg/netns"
)

// takenTimeout bounds the wait for an interface that has the pod's name to go.
const takenTimeout = 300 * time.Millisecond

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
	node, err := rtnl.Open()
	if err != nil {
		return 0, err
	}
	defer node.Close()
	index, found, err := node.Index(l.HostName)
	if err != nil || !found {
		return 0, errors.Join(err, fmt.Errorf("find %s: it is gone", l.HostName))
	}
	if err := l.hostSysctls(); err != nil {
		return 0, fmt.Errorf("configure %s: %w", l.HostName, err)
	}
	// First the node's end: the pod's has a carrier the moment it is up then.
	if err := node.Do(rtnl.LinkUp(index)); err != nil {
		return 0, fmt.Errorf("configure %s: %w", l.HostName, err)
	}
	if err := l.configurePod(); err != nil {
		return 0, err
	}
	if err := node.Do(l.leadToPod(index)...); err != nil {
		return 0, fmt.Errorf("configure %s: %w", l.HostName, err)
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
	// The name in the pod may be one's that is still being removed.
	for deadline := time.Now().Add(takenTimeout); errors.Is(err, veth.ErrExists); time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // the kernel tells nobody when a name is free
		if err = veth.Create(pair); time.Now().After(deadline) {
			break
		}
	}
	if !errors.Is(err, veth.ErrExists) {
		return err
	}
	return fmt.Errorf("create %s in %s: %w", l.IfName, l.Netns.Path(), ErrTaken)
}

// configurePod sets up the pod's end, with one message.
func (l Link) configurePod() error {
	var pod *rtnl.Conn
	err := l.Netns.Do(func() (err error) {
		if err := l.sysctls(); err != nil {
			return err
		}
		pod, err = rtnl.Open()
		return err
	})
	if err != nil {
		return fmt.Errorf("configure namespace %s: %w", l.Netns.Path(), err)
	}
	defer pod.Close()
	index, found, err := pod.Index(l.IfName)
	if err != nil || !found {
		return errors.Join(err, fmt.Errorf("find %s in the pod: it is gone", l.IfName))
	}
	requests := []rtnl.Request{rtnl.LinkUp(index)}
	for _, a := range l.Addrs {
		requests = append(requests, rtnl.AddAddr(index, netip.PrefixFrom(a, a.BitLen())))
	}
	for _, g := range l.gateways() {
		requests = append(requests, rtnl.SetNeighbour(index, g, HostMAC(l.HostName)))
	}
	for _, r := range l.podRoutes(index) {
		requests = append(requests, rtnl.SetRoute(r))
	}
	if err := pod.Do(requests...); err != nil {
		return fmt.Errorf("configure %s in the pod: %w", l.IfName, err)
	}
	return nil
}

// leadToPod leads the node's packets for the pod to it.
func (l Link) leadToPod(index int) []rtnl.Request {
	var requests []rtnl.Request
	for _, a := range l.Addrs {
		requests = append(requests, rtnl.SetNeighbour(index, a, l.MAC))
	}
	for _, r := range l.hostRoutes(index) {
		requests = append(requests, rtnl.SetRoute(r))
	}
	return requests
}

// sysctls lets a pod with an IPv6 address use it, and believe no router.
func (l Link) sysctls() error {
	if !slices.ContainsFunc(l.Addrs, netip.Addr.Is6) {
		return nil
	}
	dir := "/proc/sys/net/ipv6/conf/" + l.IfName + "/"
	return errors.Join(
		writeSysctl(dir+"disable_ipv6", "0"),
		writeSysctl(dir+"accept_ra", "0"),
	)
}

// hostSysctls keeps the kernel from checking sources, which the agent's program
// does: the kernel's check would drop replies to Services that the node itself
// called, from an end without addresses. And it keeps the end without a
// link-local address: nobody would ask for it, everybody who watches the node's
// addresses would hear of it.
func (l Link) hostSysctls() error {
	err := writeSysctl("/proc/sys/net/ipv4/conf/"+l.HostName+"/rp_filter", "0")
	if err != nil {
		return err
	}
	const none = "1"
	err = writeSysctl("/proc/sys/net/ipv6/conf/"+l.HostName+"/addr_gen_mode", none)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a node without IPv6
	}
	return err
}

// writeSysctl writes a setting without the runtime's poller.
func writeSysctl(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// awaitCarrier waits, not for long, until the kernel has noticed that the node's
// end has a carrier; what is sent before is lost. From 6.8 on it notices when
// asked for the link. A kernel that is later than that isn't waited for.
func awaitCarrier(node *rtnl.Conn, index int) error {
	for deadline := time.Now().Add(carrierTimeout); ; time.Sleep(time.Millisecond) { //nolint:forbidigo // shorter than a subscription takes to make
		up, err := node.OperUp(index)
		if err != nil {
			return fmt.Errorf("find the node's end: %w", err)
		}
		if up || time.Now().After(deadline) {
			return nil
		}
	}
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

// podRoutes returns the pod's routes to the node, and to itself: the kernel
// makes an IPv6 address its own on a work queue, also where it needn't look for
// duplicates, and would drop what comes in before. Behind a busy queue that may
// be seconds.
func (l Link) podRoutes(index int) []rtnl.Route {
	var routes []rtnl.Route
	for _, a := range l.Addrs {
		if a.Is6() {
			routes = append(routes, rtnl.Route{Index: index, Dst: netip.PrefixFrom(a, a.BitLen()), Local: true})
		}
	}
	for _, g := range l.gateways() {
		routes = append(routes,
			rtnl.Route{Index: index, Dst: netip.PrefixFrom(g, g.BitLen())},
			rtnl.Route{Index: index, Dst: netip.PrefixFrom(g, 0).Masked(), Via: g})
	}
	return routes
}

func (l Link) hostRoutes(index int) []rtnl.Route {
	var routes []rtnl.Route
	for _, a := range l.Addrs {
		routes = append(routes, rtnl.Route{Index: index, Dst: netip.PrefixFrom(a, a.BitLen()), Protocol: byte(netdev.Protocol)})
	}
	return routes
}
