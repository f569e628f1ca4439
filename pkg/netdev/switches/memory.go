// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// memory is how a port was before a switch took it. It stands in the bridge's
// alias: the kernel keeps it exactly as long as the port is the switch's.
type memory struct {
	port string // empty: nothing is remembered
	vlan int    // that the switch has of the port; 0: the port itself
	mtu  int
	up   bool
	// vlanMTU is that of an interface that the operator made for the VLAN.
	vlanMTU int
}

const memoryFormat = "patchbay: %s vlan %d, before: mtu %d up %t vlan mtu %d"

// rememberPort notes how a port is, unless that was done before anything of it was changed.
func rememberPort(bridge, port netlink.Link, vlan int) error {
	a := port.Attrs()
	if m := recall(bridge); m.port == a.Name && m.vlan == vlan {
		return nil
	}
	vlanMTU := 0
	if own, err := netdev.FindLink(Switch{Port: a.Name, VLAN: vlan}.uplink()); err != nil {
		return err
	} else if own != nil && vlan != 0 {
		vlanMTU = own.Attrs().MTU
	}
	text := fmt.Sprintf(memoryFormat, a.Name, vlan, a.MTU, a.Flags&net.FlagUp != 0, vlanMTU)
	if err := netlink.LinkSetAlias(bridge, text); err != nil {
		return fmt.Errorf("set alias of %s: %w", bridge.Attrs().Name, err)
	}
	bridge.Attrs().Alias = text
	return nil
}

// recall returns what a bridge's alias says.
func recall(bridge netlink.Link) (m memory) {
	if n, err := fmt.Sscanf(bridge.Attrs().Alias, memoryFormat, &m.port, &m.vlan, &m.mtu, &m.up, &m.vlanMTU); n != 5 || err != nil {
		return memory{}
	}
	return m
}

// uplink names what is enslaved.
func (m memory) uplink() string { return Switch{Port: m.port, VLAN: m.vlan}.uplink() }

// restore makes a port what it was, and forgets it. A VLAN that was made for the
// switch goes. What isn't there any more needs nothing.
func (m memory) restore(bridge netlink.Link) error {
	uplink, err := netdev.FindLink(m.uplink())
	if err != nil {
		return err
	}
	if uplink != nil && uplink.Attrs().Alias == vlanAlias {
		if err := netlink.LinkDel(uplink); err != nil {
			return fmt.Errorf("remove %s: %w", uplink.Attrs().Name, err)
		}
	} else if m.vlan != 0 && uplink != nil {
		if err := setMTU(uplink, m.vlanMTU); err != nil {
			return err
		}
	}
	port, err := netdev.FindLink(m.port)
	if err != nil {
		return err
	}
	if port != nil {
		if err := setMTU(port, m.mtu); err != nil {
			return err
		}
		if !m.up {
			if err := netlink.LinkSetDown(port); err != nil {
				return fmt.Errorf("set port %s down again: %w", m.port, err)
			}
		}
	}
	if err := netlink.LinkSetAlias(bridge, ""); err != nil {
		return fmt.Errorf("clear alias of %s: %w", bridge.Attrs().Name, err)
	}
	return nil
}

func setMTU(link netlink.Link, mtu int) error {
	if link.Attrs().MTU == mtu {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", mtu, link.Attrs().Name, err)
	}
	return nil
}
