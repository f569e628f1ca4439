// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// restore reads back what the maps hold. Frontends say which words are in
// force; a word, slot or backend that none leads to is what an interrupted Set
// left, and is cleared.
func (s *Services) restore() error {
	if err := s.restoreFrontends(); err != nil {
		return err
	}
	slots, done, err := view[slot](s.maps.Slots)
	if err != nil {
		return fmt.Errorf("read slots: %w", err)
	}
	defer done()
	backends, done, err := view[objects.MapBackend](s.maps.Backends)
	if err != nil {
		return fmt.Errorf("read backends: %w", err)
	}
	defer done()
	for _, fe := range s.frontends {
		if fe.Service != 0 && s.tables[fe.Service] == nil {
			s.restoreTable(fe.Service, slots, backends)
		}
	}
	for index := range s.words {
		if s.tables[uint32(index)] == nil && s.word(uint32(index)).N > 0 {
			s.setWord(uint32(index), indexes.Span{})
		}
	}
	s.restoreKept(backends)
	if err := s.clearBackends(backends); err != nil {
		return err
	}
	if err := s.restoreSources(); err != nil {
		return err
	}
	for _, r := range []*indexes.Set{s.wordIDs, s.slotIDs, s.backendIDs, s.sourceIDs} {
		r.Resume()
	}
	return nil
}

func (s *Services) restoreFrontends() error {
	keys := make([]objects.MapFrontendKey, 4096)
	values := make([]objects.MapFrontend, len(keys))
	var cursor ebpf.MapBatchCursor
	for {
		n, err := s.maps.Frontends.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read frontends: %w", err)
		}
		for i := range n {
			s.note(keys[i], values[i])
		}
		if err != nil {
			return nil
		}
	}
}

// restoreTable takes over a word and what it names. A word that leads to
// anything impossible counts as empty and is made anew by the next Set; until
// then it serves as it did.
func (s *Services) restoreTable(index uint32, slots []slot, backends []objects.MapBackend) {
	if int(index) >= len(s.words) || !s.wordIDs.Take(indexes.One(index)) {
		return
	}
	t := &table{}
	s.tables[index] = t
	word := s.word(index)
	if word.N == 0 || int64(word.Base)+int64(word.N) > int64(len(slots)) || !s.slotIDs.Take(word) {
		return
	}
	t.slots = word
	var held []uint32
	for _, slot := range slots[word.Base:word.End()] {
		held = append(held, slot.id)
	}
	ids := slices.Clone(held)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for _, id := range ids {
		if id == 0 || int(id) >= len(backends) || backends[id].Service != index || !s.backendIDs.Take(indexes.One(id)) {
			continue
		}
		t.ids = append(t.ids, id)
	}
	slices.SortFunc(t.ids, func(a, b uint32) int {
		return addrPort(backends[a]).Compare(addrPort(backends[b]))
	})
	for _, id := range t.ids {
		t.backends = append(t.backends, service.Backend{
			Addr:  addrPort(backends[id]),
			Local: backends[id].Flags&uint8(objects.MapBackendFlagsBACKEND_LOCAL) != 0,
		})
	}
	if slices.Equal(t.content(), held) {
		return
	}
	t.consistent = true
	t.foreign = !slices.Equal(t.content(), held)
}

// restoreKept takes over the backends that left their Service and serve on.
func (s *Services) restoreKept(backends []objects.MapBackend) {
	for id, b := range backends {
		t := s.tables[b.Service]
		if b.Flags&uint8(objects.MapBackendFlagsBACKEND_KEPT) == 0 || t == nil || !s.backendIDs.Take(indexes.One(uint32(id))) {
			continue
		}
		if t.kept == nil {
			t.kept = map[uint32]netip.AddrPort{}
		}
		t.kept[uint32(id)] = addrPort(b)
	}
}

// clearBackends empties backends that no table has.
func (s *Services) clearBackends(backends []objects.MapBackend) error {
	inUse := make([]bool, len(backends))
	for _, t := range s.tables {
		for _, id := range t.ids {
			inUse[id] = true
		}
		for id := range t.kept {
			inUse[id] = true
		}
	}
	var ids []uint32
	for id, b := range backends {
		if !inUse[id] && b != (objects.MapBackend{}) {
			ids = append(ids, uint32(id))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := s.maps.Backends.BatchUpdate(ids, make([]objects.MapBackend, len(ids)), nil); err != nil {
		return fmt.Errorf("clear backends: %w", err)
	}
	return nil
}

func (s *Services) restoreSources() error {
	lists := map[uint32][]netip.Prefix{}
	var key objects.MapRangeKey
	var value uint32
	it := s.maps.SourceRanges.Iterate()
	for it.Next(&key, &value) {
		lists[key.Ranges] = append(lists[key.Ranges], objects.Prefix(key.Addr, key.Prefixlen-32))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read source ranges: %w", err)
	}
	for id, prefixes := range lists {
		s.sources[sourcesText(prefixes)] = id
		s.sourceIDs.Take(indexes.One(id))
	}
	return nil
}

// slot is an element of the slots map: arrays have elements of whole words.
type slot struct{ id, _ uint32 }

// view maps an array map into memory, read-only, until done is called: reading
// a large one by system calls takes a quarter of a second.
func view[T any](m *ebpf.Map) (elements []T, done func(), err error) {
	size := int(m.MaxEntries()) * int(unsafe.Sizeof(*new(T)))
	bytes, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	done = func() { _ = unix.Munmap(bytes) }
	return unsafe.Slice((*T)(unsafe.Pointer(&bytes[0])), m.MaxEntries()), done, nil
}

func addrPort(b objects.MapBackend) netip.AddrPort {
	return netip.AddrPortFrom(b.Addr.Netip(), objects.Port(b.Port))
}

// generation is how often a service's word was switched, modulo 2^16.
func (s *Services) generation(index uint32) uint16 {
	return uint16(atomic.LoadUint64(&s.words[index]) >> 48)
}
