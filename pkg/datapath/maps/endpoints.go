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

// Endpoint is a pod on this node.
type Endpoint struct {
	IfIndex      int // host end of its veth
	HostMAC, MAC [6]byte
	Addrs        []netip.Addr
}

// Endpoints owns the map endpoints.
type Endpoints struct{ Map *ebpf.Map }

// Set writes the entries of a pod. What the programs noted in an entry of the
// same pod stays, and one that is right is not touched: they may note something
// in it just now. One of another pod, whose address this now is, is replaced.
func (m Endpoints) Set(e Endpoint) error {
	for _, addr := range e.Addrs {
		value := objects.MapEndpoint{Ifindex: uint32(e.IfIndex), Mac: e.MAC, HostMac: e.HostMAC}
		var old objects.MapEndpoint
		err := m.Map.Lookup(objects.Addr(addr), &old)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read endpoint %s: %w", addr, err)
		}
		if err == nil && old.Ifindex == value.Ifindex {
			value.Flags, value.Policy = old.Flags, old.Policy
			if value == old {
				continue
			}
		}
		if err := m.Map.Update(objects.Addr(addr), &value, ebpf.UpdateAny); err != nil {
			return fmt.Errorf("write endpoint %s: %w", addr, err)
		}
	}
	return nil
}

// Remove deletes the entries of e.Addrs, or, without addresses, all entries of
// e.IfIndex. With both, entries of another interface stay: the address was
// given to another pod since. No entry is no error.
func (m Endpoints) Remove(e Endpoint) error {
	addrs := e.Addrs
	if len(addrs) == 0 {
		all, err := m.List()
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.IfIndex == e.IfIndex {
				addrs = other.Addrs
			}
		}
	}
	var errs []error
	for _, addr := range addrs {
		var old objects.MapEndpoint
		err := m.Map.Lookup(objects.Addr(addr), &old)
		if err == nil && (e.IfIndex == 0 || old.Ifindex == uint32(e.IfIndex)) {
			err = m.Map.Delete(objects.Addr(addr))
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete endpoint %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

// List returns all pods, by interface.
func (m Endpoints) List() ([]Endpoint, error) {
	entries, err := read[objects.MapAddr, objects.MapEndpoint](m.Map)
	if err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	byIndex := map[uint32]*Endpoint{}
	for key, value := range entries {
		e := byIndex[value.Ifindex]
		if e == nil {
			e = &Endpoint{IfIndex: int(value.Ifindex), MAC: value.Mac, HostMAC: value.HostMac}
			byIndex[value.Ifindex] = e
		}
		e.Addrs = append(e.Addrs, key.Netip())
	}
	all := make([]Endpoint, 0, len(byIndex))
	for _, e := range byIndex {
		slices.SortFunc(e.Addrs, netip.Addr.Compare)
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return cmp.Compare(a.IfIndex, b.IfIndex) })
	return all, nil
}
