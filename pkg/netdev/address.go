// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Scopes of addresses: one of ScopeLink is never taken as a packet's source unasked.
const (
	ScopeGlobal = unix.RT_SCOPE_UNIVERSE
	ScopeLink   = unix.RT_SCOPE_LINK
)

// SyncAddrs makes want the addresses of a link, but for those that the kernel
// makes for itself. They are taken as free: nobody is asked for them.
func SyncAddrs(link netlink.Link, want []netip.Prefix, scope int) error {
	have, err := linkAddrsOf(link)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range want {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return toPrefix(a.IPNet) == p }) {
			continue
		}
		addr := &netlink.Addr{IPNet: toIPNet(p), Scope: scope}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			errs = append(errs, fmt.Errorf("add address %s to %s: %w", p, link.Attrs().Name, err))
		}
	}
	for _, a := range have {
		if slices.Contains(want, toPrefix(a.IPNet)) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove address %s from %s: %w", a.IPNet, link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// linkAddrsOf lists a link's addresses but those that the kernel makes for itself.
func linkAddrsOf(link netlink.Link) ([]netlink.Addr, error) {
	addrs, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	return slices.DeleteFunc(addrs, func(a netlink.Addr) bool {
		return a.Scope == unix.RT_SCOPE_LINK && a.IP.IsLinkLocalUnicast() && a.IP.To4() == nil
	}), nil
}
