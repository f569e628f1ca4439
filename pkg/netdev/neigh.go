// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour names an address on a link.
type Neighbour struct {
	Link int
	Addr netip.Addr
}

// known are the states in which the kernel trusts a neighbour's MAC address.
const known = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT

// SyncNeighbours has the kernel resolve the wanted addresses and keep them
// resolved by itself, drops those of ours that are wanted no more, and returns
// the MAC addresses known now. Others come in later as changes (netdev/watch).
func SyncNeighbours(want []Neighbour) (map[Neighbour][6]byte, error) {
	raw, err := neighbours()
	if err != nil {
		return nil, err
	}
	wanted := make(map[Neighbour]bool, len(want))
	for _, n := range want {
		wanted[n] = true
	}
	macs := make(map[Neighbour][6]byte)
	kept := make(map[Neighbour]bool)
	var errs []error
	for _, n := range raw {
		key := Neighbour{n.LinkIndex, toAddr(n.IP)}
		managed := n.FlagsExt&netlink.NTF_EXT_MANAGED != 0
		switch {
		case !wanted[key] && managed:
			errs = append(errs, removeNeighbour(key))
		case wanted[key]:
			kept[key] = managed || n.State&unix.NUD_PERMANENT != 0
			if mac := toMAC(n.HardwareAddr); n.State&known != 0 && mac != [6]byte{} {
				macs[key] = mac
			}
		}
	}
	for _, n := range want {
		if !kept[n] {
			errs = append(errs, manageNeighbour(n))
		}
	}
	return macs, errors.Join(errs...)
}

func neighbours() ([]netlink.Neigh, error) {
	var all []netlink.Neigh
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		raw, err := Dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, fam) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		all = append(all, raw...)
	}
	return all, nil
}

func manageNeighbour(n Neighbour) error {
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: n.Link, Family: family(n.Addr), IP: toIP(n.Addr), State: unix.NUD_NONE,
		Flags: netlink.NTF_USE, FlagsExt: netlink.NTF_EXT_MANAGED,
	})
	if err != nil {
		return fmt.Errorf("resolve %s on link %d: %w", n.Addr, n.Link, err)
	}
	return nil
}

// SetNeighbour gives an address a fixed MAC address on a link.
func SetNeighbour(n Neighbour, mac [6]byte) error {
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: n.Link, Family: family(n.Addr), IP: toIP(n.Addr), State: unix.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr(mac[:]),
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s on link %d: %w", n.Addr, n.Link, err)
	}
	return nil
}

// RemoveNeighbour forgets what the kernel knows of an address on all links.
func RemoveNeighbour(addr netip.Addr) error {
	raw, err := neighbours()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range raw {
		if toAddr(n.IP) == addr {
			errs = append(errs, removeNeighbour(Neighbour{n.LinkIndex, addr}))
		}
	}
	return errors.Join(errs...)
}

func removeNeighbour(n Neighbour) error {
	err := netlink.NeighDel(&netlink.Neigh{LinkIndex: n.Link, Family: family(n.Addr), IP: toIP(n.Addr)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove neighbour %s on link %d: %w", n.Addr, n.Link, err)
	}
	return nil
}
