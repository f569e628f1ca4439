// SPDX-License-Identifier: Apache-2.0

// Package switches keeps the device's virtual switches: bridges that nodes,
// VMs and pods have legs on. An internal switch leads outside by NAT through
// whichever port holds the default route; an external one has a port of the
// device enslaved, whose addresses and routes the bridge carries meanwhile.
// What is there is read from the kernel each time, so that Sync can be killed
// anywhere and called again.
package switches

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Kind is what a switch leads to.
type Kind uint8

// The kinds of a switch.
const (
	Internal Kind = iota + 1
	External
)

// The bridges, one of each kind.
const (
	InternalBridge = "pb-int"
	ExternalBridge = "pb-ext"
)

// Bridge returns the name of the bridge that is the switch of that kind.
func (k Kind) Bridge() string {
	if k == Internal {
		return InternalBridge
	}
	return ExternalBridge
}

// String returns "internal" or "external".
func (k Kind) String() string {
	if k == Internal {
		return "internal"
	}
	return "external"
}

// ParseKind reads "internal" or "external", in any case.
func ParseKind(s string) (Kind, error) {
	switch strings.ToLower(s) {
	case "internal":
		return Internal, nil
	case "external":
		return External, nil
	}
	return 0, fmt.Errorf("switch %q is not internal or external", s)
}

// Switch is a switch as declared.
type Switch struct {
	Name string
	Kind Kind
	// Port is the device's port that an External switch is bridged to.
	Port string
	// VLAN is the tag of the switch's frames on the port; 0 is untagged.
	VLAN int
	// MTU of 0 is the port's, or 1500.
	MTU int
	// Addrs are the device's own on an Internal switch.
	Addrs []netip.Prefix
}

// State is what became of a Switch.
type State struct {
	Name   string
	Bridge string
	// Uplink is the port that the switch's traffic leaves by, as far as there is one.
	Uplink string
	MTU    int
	// Err says why the switch isn't as declared.
	Err error
}

// Keeper keeps the switches of the network namespace it is called in.
type Keeper struct {
	Sysctls netdev.Sysctls
	// Seed makes the internal bridge's MAC address, the same at each start.
	Seed string
}

// Sync makes the switches what want says and returns one State for each of
// want, sorted by name, and an error for what it couldn't take away.
func (k Keeper) Sync(want []Switch) ([]State, error) {
	want = slices.SortedFunc(slices.Values(want), func(a, b Switch) int { return cmp.Compare(a.Name, b.Name) })
	taken := map[Kind]string{}
	var states []State
	for _, s := range want {
		state := State{Name: s.Name, Bridge: s.Kind.Bridge()}
		if other, ok := taken[s.Kind]; ok {
			state.Err = fmt.Errorf("switch %s: %s is switch %s already, a device has one of each type", s.Name, state.Bridge, other)
			states = append(states, state)
			continue
		}
		taken[s.Kind] = s.Name
		if err := k.ensure(s, &state); err != nil {
			state.Err = fmt.Errorf("switch %s: %w", s.Name, err)
		}
		states = append(states, state)
	}
	var errs []error
	if _, ok := taken[External]; !ok {
		errs = append(errs, RemoveExternal())
	}
	if _, ok := taken[Internal]; !ok {
		errs = append(errs, removeNAT(), removeEmpty(InternalBridge))
	}
	return states, errors.Join(errs...)
}

// Ensure makes one switch and leaves the other as it is.
func (k Keeper) Ensure(s Switch) (State, error) {
	state := State{Name: s.Name, Bridge: s.Kind.Bridge()}
	if err := k.ensure(s, &state); err != nil {
		return state, fmt.Errorf("switch %s: %w", s.Name, err)
	}
	return state, nil
}

// Check returns why a switch can't be as declared, and changes nothing.
func (k Keeper) Check(s Switch) error {
	err := s.check()
	if err == nil && s.Kind == External {
		var port netlink.Link
		if port, err = findPort(s.Port); err == nil {
			err = s.checkVLAN(port)
		}
	}
	if err != nil {
		return fmt.Errorf("switch %s: %w", s.Name, err)
	}
	return nil
}

// RemoveExternal gives the external switch's port everything back. The bridge
// goes, unless somebody has a leg on it: those stay together, and are on the
// switch again when a port is.
func RemoveExternal() error {
	if err := releaseOthers(""); err != nil {
		return err
	}
	return removeEmpty(ExternalBridge)
}

// removeEmpty removes a bridge that nobody has a leg on.
func removeEmpty(name string) error {
	bridge, err := findBridge(name)
	if err != nil || bridge == nil {
		return err
	}
	links, err := netdev.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().MasterIndex == bridge.Attrs().Index }) {
		return nil
	}
	return netdev.RemoveLink(name)
}

// Remove takes all switches away; ports get their addresses and routes back.
func Remove() error {
	return errors.Join(releaseOthers(""), removeNAT(), netdev.RemoveLink(ExternalBridge), netdev.RemoveLink(InternalBridge))
}

// ensure makes one switch what it is declared to be.
func (k Keeper) ensure(s Switch, state *State) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := k.keepFramesOutOfNetfilter(); err != nil {
		return err
	}
	if s.Kind == Internal {
		return k.ensureInternal(s, state)
	}
	return k.ensureExternal(s, state)
}

// check returns what can't be done about the declaration.
func (s Switch) check() error {
	switch {
	case s.Kind == Internal && len(s.Addrs) == 0:
		return errors.New("an internal switch needs an address of the device's, the gateway of those on it")
	case s.Kind == External && len(s.Addrs) > 0:
		return errors.New("an external switch has its port's addresses, no others")
	case s.Kind == External && s.Port == "":
		return errors.New("an external switch needs a port")
	case s.VLAN < 0 || s.VLAN > 4094 || s.VLAN != 0 && s.Kind == Internal:
		return fmt.Errorf("vlan %d: an external switch has one of 1 to 4094, or none", s.VLAN)
	}
	return nil
}
