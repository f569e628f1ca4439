// SPDX-License-Identifier: Apache-2.0

// Package nic gives each network interface of the node its role and says why.
// It is pure: the interfaces come from pkg/netdev.
package nic

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Role is a set: a node with a single NIC uses it as both.
type Role uint8

// The roles; none at all means that the interface is left alone.
const (
	Ignored  Role = 0
	Internal Role = 1 << 0
	External Role = 1 << 1
)

// String returns "ignored", "internal", "external" or "internal+external".
func (r Role) String() string {
	switch r {
	case Internal:
		return "internal"
	case External:
		return "external"
	case Internal | External:
		return "internal+external"
	}
	return "ignored"
}

// ParseRole is the reverse of String for the roles that can be configured.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{Ignored, Internal, External} {
		if s == r.String() {
			return r, nil
		}
	}
	return Ignored, fmt.Errorf("role %q is not internal, external or ignored", s)
}

// Rule gives the NICs that it selects, by name, MAC or subnet, a role.
type Rule struct {
	Name   string
	MAC    string // as the kernel writes it
	Subnet netip.Prefix
	Role   Role
}

// Hints are what roles are proposed from where no rule selects a NIC.
type Hints struct {
	NodeAddrs []netip.Addr            // the node's InternalIPs
	Pools     map[string][]netip.Addr // of LoadBalancer addresses: the first of each range
}

// NIC is an interface with its role.
type NIC struct {
	netdev.Link
	Role    Role
	Reason  string // why it has this role
	Warning string // what about it should be put right, if anything
}

// Assign gives every link a role, and returns also what is wrong with the rules.
func Assign(links []netdev.Link, rules []Rule, hints Hints) ([]NIC, []error) {
	used := make([]bool, len(rules))
	nics := make([]NIC, 0, len(links))
	for _, l := range links {
		n := NIC{Link: l}
		if i := slices.IndexFunc(rules, func(r Rule) bool { return r.selects(l) }); i >= 0 {
			used[i] = true
			n.Role, n.Reason = rules[i].Role, "configured by "+rules[i].by()
			n.Warning = collision(n, hints)
			if n.Role != Ignored && l.MAC == [6]byte{} {
				n.Role = Ignored
				n.Warning = fmt.Sprintf("it can't be %s: it %s", rules[i].Role, noMAC)
			}
		} else {
			n.Role, n.Reason = propose(l, hints)
			if n.Role == Internal|External {
				n.Warning = "cluster and outside share this NIC; keep them apart with nics[] if there is another"
			}
		}
		nics = append(nics, n)
	}
	var errs []error
	for i, r := range rules {
		if !used[i] {
			errs = append(errs, fmt.Errorf("no interface with %s for role %s", r.by(), r.Role))
		}
	}
	return nics, errs
}

func (r Rule) selects(l netdev.Link) bool {
	switch {
	case r.Name != "":
		return r.Name == l.Name
	case r.MAC != "":
		return strings.EqualFold(r.MAC, formatMAC(l.MAC)) && l.Kind != "vlan" && l.Kind != "macvlan"
	}
	return r.Subnet.IsValid() && slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return r.Subnet.Contains(p.Addr()) })
}

func (r Rule) by() string {
	switch {
	case r.Name != "":
		return "name " + r.Name
	case r.MAC != "":
		return "MAC " + r.MAC
	}
	return "subnet " + r.Subnet.String()
}

// propose derives a role from what the interface carries.
func propose(l netdev.Link, hints Hints) (Role, string) {
	if why := unfit(l); why != "" {
		return Ignored, why
	}
	var role Role
	var reasons []string
	if addr, ok := holds(l, hints.NodeAddrs); ok {
		role |= Internal
		reasons = append(reasons, fmt.Sprintf("holds the node's InternalIP %s", addr))
	}
	if pool, ok := poolOn(l, hints.Pools); ok {
		role |= External
		reasons = append(reasons, fmt.Sprintf("holds an address in the subnet of pool %s", pool))
	}
	if l.DefaultRoute && role == 0 {
		role |= External
		reasons = append(reasons, "holds the default route")
	}
	if role == 0 {
		return Ignored, "holds neither the node's InternalIP nor the default route nor an address in a pool's subnet"
	}
	return role, strings.Join(reasons, "; ")
}

// noMAC is why a modem or a point-to-point device has no role. Packets leave by
// it all the same, with its address, where routes say so: that is the kernel's.
const noMAC = "has no MAC address: nothing can be announced or balanced on it"

// unfit says why an interface can't be proposed as a NIC.
func unfit(l netdev.Link) string {
	switch l.Kind {
	case "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "vti", "wireguard", "dummy", "ifb", "nlmon":
		return "is a " + l.Kind + " device"
	}
	switch {
	case l.MAC == [6]byte{}:
		return noMAC
	case l.Master != 0:
		return "is a port of another interface"
	case len(l.Addrs) == 0:
		return "has no address"
	}
	return ""
}

func holds(l netdev.Link, addrs []netip.Addr) (netip.Addr, bool) {
	for _, p := range l.Addrs {
		if slices.Contains(addrs, p.Addr()) {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// poolOn returns the first pool, by name, whose first address is on a subnet of the link.
func poolOn(l netdev.Link, pools map[string][]netip.Addr) (string, bool) {
	names := make([]string, 0, len(pools))
	for name, firsts := range pools {
		if slices.ContainsFunc(firsts, l.OnSubnet) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", false
	}
	return slices.MinFunc(names, cmp.Compare[string]), true
}

// collision says where a configured role contradicts what the NIC carries.
func collision(n NIC, hints Hints) string {
	if addr, ok := holds(n.Link, hints.NodeAddrs); ok && n.Role&Internal == 0 {
		return fmt.Sprintf("the node's InternalIP %s is on a NIC configured as %s", addr, n.Role)
	}
	if pool, ok := poolOn(n.Link, hints.Pools); ok && n.Role&External == 0 {
		return fmt.Sprintf("pool %s is in the subnet of a NIC configured as %s: its addresses can't be announced", pool, n.Role)
	}
	return ""
}

func formatMAC(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
