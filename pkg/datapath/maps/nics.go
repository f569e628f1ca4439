// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// NICRole is what a NIC is for. The roles are bits: a frontend's node port is
// open on a set of them.
type NICRole uint8

// The roles of a NIC.
const (
	Internal = NICRole(objects.MapNicRoleNIC_INTERNAL)
	External = NICRole(objects.MapNicRoleNIC_EXTERNAL)
)

// String returns "internal" or "external".
func (r NICRole) String() string {
	switch r {
	case Internal:
		return "internal"
	case External:
		return "external"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// NIC is a network device of the node that we manage.
type NIC struct {
	Index int
	Name  string // for messages only
	Role  NICRole
	MAC   [6]byte
	Addrs []netip.Addr // the node's own; the first of each family is shown to others
	MTU   int
}

// NICs owns the map nics.
type NICs struct{ Map *ebpf.Map }

// Set writes a NIC's entry.
func (m NICs) Set(nic NIC) error {
	value := objects.MapNic{Mtu: uint32(nic.MTU), Mac: nic.MAC, Role: uint8(nic.Role)}
	for _, addr := range nic.Addrs {
		switch {
		case addr.Is4() && value.V4 == (objects.MapAddr{}):
			value.V4 = objects.Addr(addr)
		case addr.Is6() && !addr.IsLinkLocalUnicast() && value.V6 == (objects.MapAddr{}):
			value.V6 = objects.Addr(addr)
		}
	}
	if err := m.Map.Update(uint32(nic.Index), &value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write NIC %s: %w", nic.Name, err)
	}
	return nil
}

// Remove deletes a NIC's entry. No entry is no error.
func (m NICs) Remove(index int) error {
	if err := m.Map.Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete NIC %d: %w", index, err)
	}
	return nil
}

// List returns all NICs by index, without names.
func (m NICs) List() ([]NIC, error) {
	entries, err := read[uint32, objects.MapNic](m.Map)
	if err != nil {
		return nil, fmt.Errorf("nics: %w", err)
	}
	var all []NIC
	for index, value := range entries {
		nic := NIC{Index: int(index), Role: NICRole(value.Role), MAC: value.Mac, MTU: int(value.Mtu)}
		for _, addr := range []objects.MapAddr{value.V4, value.V6} {
			if a := addr.Netip(); a.IsValid() {
				nic.Addrs = append(nic.Addrs, a)
			}
		}
		all = append(all, nic)
	}
	slices.SortFunc(all, func(a, b NIC) int { return cmp.Compare(a.Index, b.Index) })
	return all, nil
}
