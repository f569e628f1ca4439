// SPDX-License-Identifier: Apache-2.0

// Package netdev is the one place that speaks netlink: links, addresses,
// routes, neighbours and sysctls of the current network namespace. What it
// makes can be told from other people's by route protocol 80 or by its name,
// and can be made again or taken away at any time.
//
// Roles of NICs are in netdev/nic, the operator's routes in netdev/custom, the nftables table in netdev/nat, change
// notices in netdev/watch, so that a CNI plugin links none of them.
package netdev

import (
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// The route protocols that are ours.
const (
	Protocol       netlink.RouteProtocol = 80 // the ways to other nodes and their pods
	CustomProtocol netlink.RouteProtocol = 81 // the operator's own: netdev/custom
)

// IsPodLink tells whether name is that of a pod's host end: pb and 11 hex digits.
func IsPodLink(name string) bool {
	digits, ok := strings.CutPrefix(name, "pb")
	return ok && len(digits) == 11 && strings.Trim(digits, "0123456789abcdef") == ""
}

// toAddr converts netlink's form; the zero Addr stands for none.
func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// toIP converts to netlink's form; nil stands for none.
func toIP(addr netip.Addr) net.IP { return addr.AsSlice() }

// toPrefix converts netlink's form, keeping host bits; nil gives the zero Prefix.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(toAddr(n.IP), bits)
}

// toIPNet converts to netlink's form.
func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: toIP(p.Addr()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toMAC converts netlink's form; other lengths than six give the zero MAC.
func toMAC(hw net.HardwareAddr) (mac [6]byte) {
	if len(hw) == len(mac) {
		copy(mac[:], hw)
	}
	return mac
}

// family returns netlink's number of the address's family.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
