// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// defaultMTU is that of a switch without a port.
const defaultMTU = 1500

// keepFramesOutOfNetfilter undoes what loading br_netfilter does to all bridges.
func (k Keeper) keepFramesOutOfNetfilter() error {
	var errs []error
	for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables"} {
		if _, err := os.Stat(filepath.Join(string(k.Sysctls), key)); err == nil {
			errs = append(errs, k.Sysctls.Ensure(key, "0"))
		}
	}
	return errors.Join(errs...)
}

// ensureInternal makes the internal bridge, its addresses and its NAT.
func (k Keeper) ensureInternal(s Switch, state *State) error {
	state.MTU = cmp.Or(s.MTU, defaultMTU)
	link, err := ensureBridge(InternalBridge, derivedMAC(k.Seed), state.MTU)
	if err != nil {
		return err
	}
	if err := netdev.SyncAddrs(link, s.Addrs, netdev.ScopeGlobal); err != nil {
		return err
	}
	if err := k.believeNoRouter(InternalBridge); err != nil {
		return err
	}
	if err := k.Sysctls.EnableForwarding(); err != nil {
		return err
	}
	if err := ensureNAT(); err != nil {
		return err
	}
	state.Uplink, err = defaultPort()
	return err
}

// believeNoRouter keeps who is on the switch from giving the device routes.
func (k Keeper) believeNoRouter(bridge string) error {
	key := "net/ipv6/conf/" + bridge + "/accept_ra"
	if _, err := os.Stat(filepath.Join(string(k.Sysctls), key)); err != nil {
		return nil // no IPv6
	}
	return k.Sysctls.Ensure(key, "0")
}

// ensureExternal makes the external bridge and enslaves its port, or a VLAN of it.
func (k Keeper) ensureExternal(s Switch, state *State) error {
	port, err := findPort(s.Port)
	if err != nil {
		return err
	}
	if err := s.checkVLAN(port); err != nil {
		return err
	}
	if err := releaseOthers(s.uplink()); err != nil {
		return err
	}
	state.MTU, err = s.mtuOn(port)
	if err != nil {
		return err
	}
	bridge, err := ensureBridge(ExternalBridge, port.Attrs().HardwareAddr, state.MTU)
	if err != nil {
		return err
	}
	if err := rememberPort(bridge, port, s.VLAN); err != nil {
		return err
	}
	uplink, err := raiseUplink(port, s.VLAN, state.MTU)
	if err != nil {
		return err
	}
	if err := k.carrySysctls(uplink.Attrs().Name, bridge.Attrs().Name); err != nil {
		return err
	}
	if err := enslave(uplink, bridge); err != nil {
		return err
	}
	state.Uplink = uplink.Attrs().Name
	return nil
}

// mtuOn is the switch's MTU: as declared, else that of what is enslaved.
func (s Switch) mtuOn(port netlink.Link) (int, error) {
	own, err := netdev.FindLink(s.uplink())
	if err != nil || own == nil {
		return cmp.Or(s.MTU, port.Attrs().MTU), err
	}
	return cmp.Or(s.MTU, own.Attrs().MTU), nil
}

// raiseUplink sets a port, and the VLAN of it that the switch is of, up and wide
// enough, and returns what is to be enslaved.
func raiseUplink(port netlink.Link, vlan, mtu int) (netlink.Link, error) {
	name := port.Attrs().Name
	if port.Attrs().MTU < mtu {
		if err := netlink.LinkSetMTU(port, mtu); err != nil {
			return nil, fmt.Errorf("port %s can't carry MTU %d: %w", name, mtu, err)
		}
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return nil, fmt.Errorf("set port %s up: %w", name, err)
	}
	if vlan == 0 {
		return port, nil
	}
	return ensureVLAN(port, vlan, mtu)
}

// derivedMAC is a locally administered address that the seed names.
func derivedMAC(seed string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("patchbay switch " + seed))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// ensureBridge returns the bridge of that name, up, made or corrected as need
// be. A fixed MAC address keeps it from taking that of a leg. Snooping is off:
// without a querier it would stop multicast.
func ensureBridge(name string, mac net.HardwareAddr, mtu int) (netlink.Link, error) {
	link, err := findBridge(name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac, mtu
		off := false
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find bridge %s: %w", name, err)
		}
	}
	if err := correctBridge(link, mac, mtu); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	return link, nil
}

// correctBridge sets what isn't as it should be.
func correctBridge(link netlink.Link, mac net.HardwareAddr, mtu int) error {
	attrs := link.Attrs()
	if bridge, ok := link.(*netlink.Bridge); ok && bridge.MulticastSnooping != nil && *bridge.MulticastSnooping {
		if err := netlink.BridgeSetMcastSnoop(link, false); err != nil {
			return fmt.Errorf("turn multicast snooping off: %w", err)
		}
	}
	if !bytes.Equal(attrs.HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set address %s: %w", mac, err)
		}
	}
	if attrs.MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}

// findBridge returns nil without an error if there is no such link.
func findBridge(name string) (netlink.Link, error) {
	link, err := netdev.FindLink(name)
	if err == nil && link != nil && link.Type() != "bridge" {
		return nil, fmt.Errorf("link %s is a %s, not a bridge", name, link.Type())
	}
	return link, err
}

// defaultPort names the link that the IPv4, or else the IPv6, default route leads out of.
func defaultPort() (string, error) {
	links, err := netdev.Links()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(links, func(l netdev.Link) bool { return l.DefaultRoute })
	if i < 0 {
		return "", nil
	}
	return links[i].Name, nil
}
