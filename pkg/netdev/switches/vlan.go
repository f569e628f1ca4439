// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// vlanAlias marks VLAN interfaces that were made for a switch.
const vlanAlias = "patchbay: made for " + ExternalBridge

// uplink names what is enslaved: the port, or the interface of its VLAN.
func (s Switch) uplink() string {
	if s.VLAN == 0 {
		return s.Port
	}
	suffix := fmt.Sprintf(".%d", s.VLAN)
	return s.Port[:min(len(s.Port), unix.IFNAMSIZ-1-len(suffix))] + suffix
}

// checkVLAN returns why the port can't have the switch's VLAN: an interface that
// somebody made for that VLAN by another name, or of that name for something else.
func (s Switch) checkVLAN(port netlink.Link) error {
	if s.VLAN == 0 {
		return nil
	}
	links, err := netdev.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		v, ok := l.(*netlink.Vlan)
		same := ok && v.VlanId == s.VLAN && v.Attrs().ParentIndex == port.Attrs().Index
		if named := l.Attrs().Name == s.uplink(); same != named {
			return fmt.Errorf("vlan %d of port %s: interface %s is in the way", s.VLAN, s.Port, l.Attrs().Name)
		}
	}
	return nil
}

// ensureVLAN returns the interface of a port's VLAN, up. One that the operator
// made is taken with what it has, and given back.
func ensureVLAN(port netlink.Link, vlan, mtu int) (netlink.Link, error) {
	name := Switch{Port: port.Attrs().Name, VLAN: vlan}.uplink()
	link, err := netdev.FindLink(name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.MTU = name, port.Attrs().Index, mtu
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vlan, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			return nil, fmt.Errorf("make vlan %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find vlan %s: %w", name, err)
		}
		if err := netlink.LinkSetAlias(link, vlanAlias); err != nil {
			return nil, errors.Join(fmt.Errorf("set alias of %s: %w", name, err), netlink.LinkDel(link))
		}
	}
	if err := setMTU(link, mtu); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return link, nil
}

// carried are the settings of a port that hold for the bridge in its place.
func carried() []string {
	return []string{
		"net/ipv4/conf/%s/rp_filter", "net/ipv4/conf/%s/arp_ignore", "net/ipv4/conf/%s/arp_announce", "net/ipv4/conf/%s/proxy_arp",
		"net/ipv6/conf/%s/accept_ra", "net/ipv6/conf/%s/autoconf", "net/ipv6/conf/%s/use_tempaddr", "net/ipv6/conf/%s/disable_ipv6",
	}
}

// carrySysctls has the bridge behave as its port did.
func (k Keeper) carrySysctls(port, bridge string) error {
	var errs []error
	for _, key := range carried() {
		text, err := os.ReadFile(filepath.Join(string(k.Sysctls), fmt.Sprintf(key, port)))
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err == nil {
			err = k.Sysctls.Ensure(fmt.Sprintf(key, bridge), strings.TrimSpace(string(text)))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
