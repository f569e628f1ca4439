// SPDX-License-Identifier: Apache-2.0

package podlink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Remove takes the interface away by its host end; the other end, routes and
// neighbours go with it. It takes some 30 ms, most of them behind the moment
// from which neither end can be seen. An interface that isn't there is no
// error.
func Remove(hostName string) error {
	link, err := netlink.LinkByName(hostName)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", hostName, err)
	}
	return remove(link)
}

// RemoveIndex is Remove for the interface that has this index and still this
// name: one made later under the same name has another index, and stays.
func RemoveIndex(hostName string, index int) error {
	link, err := netlink.LinkByIndex(index)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s (%d): %w", hostName, index, err)
	}
	if link.Attrs().Name != hostName {
		return nil
	}
	return remove(link)
}

func remove(link netlink.Link) error {
	err := netlink.LinkDel(link)
	if err == nil || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove link %s: %w", link.Attrs().Name, err)
}

// Index returns the index of a host end, and whether there is one. It waits
// for nobody: neither for the lock under which links are made and removed, nor
// for what comes after a removal.
func Index(hostName string) (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(hostName)
	if err != nil {
		return 0, false, fmt.Errorf("name %s: %w", hostName, err)
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	if errors.Is(err, unix.ENODEV) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find link %s: %w", hostName, err)
	}
	return int(request.Uint32()), true, nil
}

// AwaitRemoval waits until the host end, and with it the pod's, can't be seen
// any more: some other process is removing it. It returns ctx's error if that
// doesn't happen.
func AwaitRemoval(ctx context.Context, hostName string) error {
	for {
		if _, found, err := Index(hostName); err != nil || !found {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the removal of %s: %w", hostName, ctx.Err())
		}
		nap := unix.NsecToTimespec(int64(removalNap))
		_ = unix.Nanosleep(&nap, nil) // on this thread: the runtime's timers wake another one
	}
}

// removalNap is the time between two looks for a link that is being removed.
const removalNap = 200 * time.Microsecond

// Addrs lists the addresses that are routed to pods, with the host end of each.
func Addrs() (map[netip.Addr]string, error) {
	links, err := netdev.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		if netdev.IsPodLink(l.Attrs().Name) {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	filter := &netlink.Route{Protocol: netdev.Protocol}
	routes, err := netdev.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addrs := map[netip.Addr]string{}
	for _, r := range routes {
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		if name := names[r.LinkIndex]; ok && name != "" {
			addrs[a.Unmap()] = name
		}
	}
	return addrs, nil
}
