// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SyncGroups makes a link a member of exactly those solicited-node groups that
// the IPv6 addresses need, by multicast addresses that join without a process:
// the NIC goes on receiving neighbour solicitations whoever dies.
func SyncGroups(link int, addrs []netip.Addr) error {
	want := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if a.Is6() {
			want[solicitedNode(a)] = true
		}
	}
	raw, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	members := memberships(link)
	device := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link}}
	var errs []error
	for _, a := range raw {
		group := toPrefix(a.IPNet).Addr()
		if a.LinkIndex != link || a.Flags&unix.IFA_F_MCAUTOJOIN == 0 || group != solicitedNode(group) {
			continue
		}
		if want[group] && members[group] {
			delete(want, group)
			continue
		}
		if err := netlink.AddrDel(device, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("leave %s on link %d: %w", group, link, err))
		}
	}
	for group := range want {
		join := &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(group, 128)), Flags: unix.IFA_F_MCAUTOJOIN}
		// In use: joined already, by an address that went with the link's last down.
		if err := netlink.AddrAdd(device, join); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EADDRINUSE) {
			errs = append(errs, fmt.Errorf("join %s on link %d: %w", group, link, err))
		}
	}
	return errors.Join(errs...)
}

// memberships are the IPv6 groups that a link is a member of. A link that goes down
// right after it came up may have left one whose address it still has.
func memberships(link int) map[netip.Addr]bool {
	groups := map[netip.Addr]bool{}
	raw, _ := os.ReadFile("/proc/net/igmp6") // not there: no IPv6
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line) // index, device, group, users, flags, timer
		if len(f) < 3 || f[0] != strconv.Itoa(link) {
			continue
		}
		if group, err := hex.DecodeString(f[2]); err == nil && len(group) == 16 {
			groups[netip.AddrFrom16([16]byte(group))] = true
		}
	}
	return groups
}

// solicitedNode is the group in which a host listens for who looks for addr (RFC 4291, 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}
