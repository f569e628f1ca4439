// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/load"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// kernelMaps are the Service maps as the kernel has them, read by the keys and
// values alone: what their owner thinks is in them is not asked.
type kernelMaps struct {
	frontends map[objects.MapFrontendKey]objects.MapFrontend
	ranges    map[uint32][]netip.Prefix // by id
	words     []uint64
	slots     *ebpf.Map
	backends  *ebpf.Map
	inUse     map[uint32]bool // backends that slots name: each is one Service's
	known     map[uint32][]netip.AddrPort
}

// pinnedMaps opens the Service maps by their pins.
func pinnedMaps(pinDir string) (map[string]*ebpf.Map, func(), error) {
	maps := map[string]*ebpf.Map{}
	done := func() {
		for _, m := range maps {
			m.Close()
		}
	}
	for _, name := range []string{"frontends", "services", "slots", "backends", "source_ranges"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, fmt.Sprintf("v%d", load.Schema), "maps", name), nil)
		if err != nil {
			done()
			return nil, nil, err
		}
		maps[name] = m
	}
	return maps, done, nil
}

func readMaps(maps map[string]*ebpf.Map) (*kernelMaps, error) {
	k := &kernelMaps{
		frontends: map[objects.MapFrontendKey]objects.MapFrontend{}, ranges: map[uint32][]netip.Prefix{},
		slots: maps["slots"], backends: maps["backends"], inUse: map[uint32]bool{}, known: map[uint32][]netip.AddrPort{},
		words: make([]uint64, maps["services"].MaxEntries()),
	}
	var key objects.MapFrontendKey
	var value objects.MapFrontend
	it := maps["frontends"].Iterate()
	for it.Next(&key, &value) {
		k.frontends[key] = value
	}
	var prefix objects.MapRangeKey
	var allowed uint32
	ranges := maps["source_ranges"].Iterate()
	for ranges.Next(&prefix, &allowed) {
		k.ranges[prefix.Ranges] = append(k.ranges[prefix.Ranges], objects.Prefix(prefix.Addr, prefix.Prefixlen-32))
	}
	var index uint32
	words := maps["services"].Iterate()
	var word uint64
	for words.Next(&index, &word) {
		k.words[index] = word
	}
	return k, errors.Join(it.Err(), ranges.Err(), words.Err())
}

// chosen returns the backends that a Service's slots name, once each.
func (k *kernelMaps) chosen(index uint32) ([]netip.AddrPort, error) {
	if known, ok := k.known[index]; ok {
		return known, nil
	}
	var all []netip.AddrPort
	base, count := uint32(k.words[index]), uint32(uint16(k.words[index]>>32))
	for slot := base; slot < base+count; slot++ {
		var id uint32
		var b objects.MapBackend
		if err := k.slots.Lookup(slot, &id); err != nil {
			return nil, err
		}
		if k.inUse[id] {
			continue
		}
		if err := k.backends.Lookup(id, &b); err != nil {
			return nil, err
		}
		if b.Service != index || b.Port == 0 || b.Flags&uint8(objects.MapBackendFlagsBACKEND_GONE) != 0 {
			return nil, fmt.Errorf("slot %d of service %d: backend %d is %+v", slot, index, id, b)
		}
		k.inUse[id] = true
		all = append(all, netip.AddrPortFrom(b.Addr.Netip(), objects.Port(b.Port)))
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	k.known[index] = slices.Compact(all)
	return k.known[index], nil
}

// exact compares the maps in the kernel with what the oracle says, and wants nothing
// else to be there: no word without a frontend, no backend that no slot names but
// those that left, no list of ranges that nobody uses.
func exact(s *oracle.State, maps map[string]*ebpf.Map) error {
	k, err := readMaps(maps)
	if err != nil {
		return fmt.Errorf("read maps: %w", err)
	}
	var have []services.Frontend
	var errs []error
	addresses, words, lists := map[objects.MapFrontendKey]bool{}, map[uint32]bool{}, map[uint32]bool{}
	for key, value := range k.frontends {
		if value.Flags&uint16(objects.MapFrontendFlagsFE_ADDRESS) != 0 {
			addresses[key] = true
			continue
		}
		words[value.Service], lists[value.Ranges] = true, true
		backends, err := k.chosen(value.Service)
		errs = append(errs, err)
		have = append(have, frontendOf(key, value, backends))
	}
	errs = append(errs, differences(s, have), k.sameRanges(s))
	for _, f := range s.Frontends() {
		key := objects.MapFrontendKey{Addr: objects.Addr(f.Addr.Addr()), Scope: scopeOf(f)}
		if there, known := addresses[key]; f.Kind != oracle.NodePort && !known {
			errs = append(errs, fmt.Errorf("address %s alone is not there", f.Addr.Addr()))
		} else if there && f.Kind != oracle.NodePort {
			addresses[key] = false // a Service's
		}
	}
	for key, nobodys := range addresses {
		if nobodys {
			errs = append(errs, fmt.Errorf("address %s alone is there", key.Addr.Netip()))
		}
	}
	for index, word := range k.words {
		if uint16(word>>32) > 0 && !words[uint32(index)] {
			errs = append(errs, fmt.Errorf("service %d has %d slots and no frontend", index, uint16(word>>32)))
		}
	}
	for id := range k.ranges {
		if !lists[id] {
			errs = append(errs, fmt.Errorf("source ranges %d: nobody's", id))
		}
	}
	return errors.Join(append(errs, k.leftovers())...)
}

// leftovers finds backends that look as if they served, and are in no slot.
func (k *kernelMaps) leftovers() error {
	var errs []error
	var id uint32
	var b objects.MapBackend
	it := k.backends.Iterate()
	for it.Next(&id, &b) {
		if b.Port != 0 && !k.inUse[id] && b.Flags&uint8(objects.MapBackendFlagsBACKEND_GONE) == 0 {
			errs = append(errs, fmt.Errorf("backend %d is in no slot: %+v", id, b))
		}
	}
	return errors.Join(append(errs, it.Err())...)
}

// sameRanges compares the source ranges of each frontend.
func (k *kernelMaps) sameRanges(s *oracle.State) error {
	var errs []error
	for _, f := range s.Frontends() {
		proto := map[string]uint8{"TCP": 6, "UDP": 17, "SCTP": 132}[string(f.Protocol)]
		fe, ok := k.frontends[objects.MapFrontendKey{
			Addr: objects.Addr(f.Addr.Addr()), Port: objects.Port(f.Addr.Port()), Proto: proto, Scope: scopeOf(f),
		}]
		want, got := slices.Clone(f.SourceRanges), slices.Clone(k.ranges[fe.Ranges])
		slices.SortFunc(want, netip.Prefix.Compare)
		slices.SortFunc(got, netip.Prefix.Compare)
		if ok && !slices.Equal(slices.Compact(want), got) {
			errs = append(errs, fmt.Errorf("source ranges of %s: want %v, got %v", f.Addr, want, got))
		}
	}
	return errors.Join(errs...)
}

func scopeOf(f oracle.Frontend) uint8 {
	if f.Outside {
		return uint8(service.External)
	}
	return uint8(service.Cluster)
}

func frontendOf(key objects.MapFrontendKey, value objects.MapFrontend, backends []netip.AddrPort) services.Frontend {
	return services.Frontend{
		Frontend: service.Frontend{
			Address: service.Address{IP: key.Addr.Netip(), Port: objects.Port(key.Port), Protocol: service.Protocol(key.Proto)},
			Scope:   service.Scope(key.Scope),
		},
		Backends: backends, Affinity: time.Duration(value.Affinity) * time.Second,
		SocketLB:   value.Flags&uint16(objects.MapFrontendFlagsFE_SOCKET) != 0,
		Restricted: value.Ranges != 0,
		Reject:     value.Flags&uint16(objects.MapFrontendFlagsFE_REJECT) != 0,
		NodePorts:  service.NICRoles(value.NicRoles),
	}
}
