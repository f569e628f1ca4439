// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/maglev"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// table is what a word names: backends, each with its index in the backends
// map, and the slots that hold these.
type table struct {
	consistent bool
	backends   []service.Backend
	ids        []uint32 // of backends, in their order
	slots      indexes.Span
	kept       map[uint32]netip.AddrPort // left, but serve UDP sockets that they have
	foreign    bool                      // the slots are neither a list nor a Maglev table of ids
}

// batch collects writes to places that no word names yet.
type batch struct {
	ids      []uint32
	backends []objects.MapBackend
	at       []uint32
	slots    []uint32
}

// switchTables writes what groups need that is new, then switches their words.
func (s *Services) switchTables(p *plan) error {
	var b batch
	var errs []error
	next := map[*group]*table{}
	for _, g := range p.groups {
		t, err := s.build(g, &b)
		if err != nil {
			errs = append(errs, &Refused{g.port, err})
			continue
		}
		if t != nil {
			next[g] = t
		}
	}
	if err := b.write(s.maps); err != nil {
		// Nothing was switched, and what was allocated is not in use.
		s.abandon(next)
		return errors.Join(append(errs, err)...)
	}
	var gone []uint32
	for g, t := range next {
		gone = append(gone, s.switchTable(g, t)...)
	}
	for _, g := range p.groups {
		gone = append(gone, s.stopKeeping(g)...)
	}
	return errors.Join(append(errs, s.retire(gone))...)
}

// build makes a group's table. It returns nil if the one it has is the same,
// and leaves nothing allocated if it returns an error.
func (s *Services) build(g *group, b *batch) (_ *table, err error) {
	old := s.tables[g.word]
	if old == nil {
		old = &table{}
	} else if !old.foreign && old.consistent == g.consistent && slices.Equal(old.backends, g.backends) {
		return nil, nil
	}
	if g.word == 0 {
		word, err := s.wordIDs.Alloc(1)
		if err != nil {
			return nil, fmt.Errorf("allocate service: %w", err)
		}
		g.word = word.Base
		defer func() {
			if err != nil {
				s.wordIDs.Release(word, s.clock())
				g.word = 0
			}
		}()
	}
	t := &table{consistent: g.consistent, backends: g.backends}
	if t.ids, err = s.backendsOf(g, old, b); err != nil {
		return nil, err
	}
	if !old.foreign && old.consistent == t.consistent && slices.Equal(old.ids, t.ids) {
		t.slots = old.slots // only names or flags differ
		return t, nil
	}
	if t.slots, err = s.writeSlots(t, b); err != nil {
		s.releaseNew(t, old)
		return nil, err
	}
	return t, nil
}

// backendsOf gives each backend of a group an index: the one that it has in
// the old table, or a new one.
func (s *Services) backendsOf(g *group, old *table, b *batch) ([]uint32, error) {
	had := make(map[netip.AddrPort]int, len(old.ids))
	for i, backend := range old.backends {
		had[backend.Addr] = i
	}
	kept := make(map[netip.AddrPort]uint32, len(old.kept))
	for id, addr := range old.kept {
		kept[addr] = id
	}
	t := &table{}
	for _, backend := range g.backends {
		var id uint32
		i, ok := had[backend.Addr]
		if ok {
			id = old.ids[i]
		} else if id = kept[backend.Addr]; id == 0 {
			free, err := s.backendIDs.Alloc(1)
			if err != nil {
				s.releaseNew(t, old)
				return nil, fmt.Errorf("allocate backend %s: %w", backend.Addr, err)
			}
			id = free.Base
		}
		t.ids = append(t.ids, id)
		if !ok || old.backends[i].Local != backend.Local {
			b.ids = append(b.ids, id)
			b.backends = append(b.backends, backendValue(backend, g))
		}
	}
	return t.ids, nil
}

// writeSlots allocates slots for t.ids and puts them in the batch.
func (s *Services) writeSlots(t *table, b *batch) (indexes.Span, error) {
	content := t.content()
	if len(content) == 0 {
		return indexes.Span{}, nil
	}
	if len(content) > math.MaxUint16 {
		return indexes.Span{}, fmt.Errorf("%d backends: more than %d", len(content), math.MaxUint16)
	}
	slots, err := s.slotIDs.Alloc(uint32(len(content)))
	if err != nil {
		return indexes.Span{}, fmt.Errorf("allocate %d slots: %w", len(content), err)
	}
	for i, id := range content {
		b.at = append(b.at, slots.Base+uint32(i))
		b.slots = append(b.slots, id)
	}
	return slots, nil
}

// content is what a table's slots hold.
func (t *table) content() []uint32 {
	if !t.consistent || len(t.ids) == 0 {
		return t.ids
	}
	identities := make([]uint64, len(t.backends))
	for i, backend := range t.backends {
		identities[i] = maglev.ID(backend.Addr)
	}
	content := maglev.Table(identities, maglev.Size(len(identities)))
	slots := make([]uint32, len(content))
	for i, index := range content {
		slots[i] = t.ids[index]
	}
	return slots
}

// write puts the batch into the maps.
func (b *batch) write(maps Maps) error {
	if len(b.ids) > 0 {
		if _, err := maps.Backends.BatchUpdate(b.ids, b.backends, nil); err != nil {
			return fmt.Errorf("write backends: %w", err)
		}
	}
	if len(b.at) > 0 {
		if _, err := maps.Slots.BatchUpdate(b.at, b.slots, nil); err != nil {
			return fmt.Errorf("write slots: %w", err)
		}
	}
	return nil
}

// switchTable makes t the table of a group's word, lets the old one's slots rest,
// and returns the backends that left for good.
func (s *Services) switchTable(g *group, t *table) []uint32 {
	old := s.tables[g.word]
	s.tables[g.word] = t
	if old == nil {
		s.setWord(g.word, t.slots)
		return nil
	}
	t.kept = old.kept
	if old.slots == t.slots {
		return nil
	}
	s.setWord(g.word, t.slots)
	s.slotIDs.Release(old.slots, s.clock().Add(grace))
	return s.keep(g, old, t)
}

// keep sorts out the backends that old had and t hasn't: those that still serve
// UDP are kept, marked as gone for all that is new; the others are returned.
func (s *Services) keep(g *group, old, t *table) []uint32 {
	in := make(map[uint32]bool, len(t.ids))
	for _, id := range t.ids {
		in[id] = true
	}
	maps.DeleteFunc(t.kept, func(id uint32, _ netip.AddrPort) bool { return in[id] })
	var gone []uint32
	for i, id := range old.ids {
		addr := old.backends[i].Addr
		switch {
		case in[id]:
		case g.serving[addr] && s.mark(id, objects.MapBackendFlagsBACKEND_GONE|objects.MapBackendFlagsBACKEND_KEPT) == nil:
			if t.kept == nil {
				t.kept = map[uint32]netip.AddrPort{}
			}
			t.kept[id] = addr
		default:
			gone = append(gone, id)
		}
	}
	return gone
}

// stopKeeping returns the backends of a group that were kept, and serve no more.
func (s *Services) stopKeeping(g *group) []uint32 {
	t := s.tables[g.word]
	if t == nil {
		return nil
	}
	var gone []uint32
	for id, addr := range t.kept {
		if !g.serving[addr] {
			gone = append(gone, id)
			delete(t.kept, id)
		}
	}
	return gone
}

// retire marks backends as gone, so that nothing new sticks to them, and lets
// their indexes rest. A program that just chose one may still use it.
func (s *Services) retire(ids []uint32) error {
	for _, id := range ids {
		if err := s.mark(id, objects.MapBackendFlagsBACKEND_GONE); err != nil {
			return fmt.Errorf("retire backend %d: %w", id, err)
		}
		s.backendIDs.Release(indexes.One(id), s.clock().Add(grace))
	}
	return nil
}

// mark sets the flags of a backend that left; where it is stays.
func (s *Services) mark(id uint32, flags objects.MapBackendFlags) error {
	var b objects.MapBackend
	if err := s.maps.Backends.Lookup(id, &b); err != nil {
		return err
	}
	b.Flags = b.Flags&uint8(objects.MapBackendFlagsBACKEND_LOCAL) | uint8(flags)
	return s.maps.Backends.Update(id, &b, ebpf.UpdateExist)
}

// abandon gives back what tables that were never switched to had allocated.
func (s *Services) abandon(next map[*group]*table) {
	for g, t := range next {
		old := s.tables[g.word]
		if old == nil {
			old = &table{}
			s.wordIDs.Release(indexes.One(g.word), s.clock())
			g.word = 0
		}
		s.releaseNew(t, old)
		if t.slots != old.slots {
			s.slotIDs.Release(t.slots, s.clock())
		}
	}
}

// releaseNew gives back the backends that t has and old hasn't.
func (s *Services) releaseNew(t, old *table) {
	for _, id := range without(t.ids, old.ids) {
		if _, kept := old.kept[id]; kept {
			continue
		}
		s.backendIDs.Release(indexes.One(id), s.clock())
	}
}

func backendValue(b service.Backend, g *group) objects.MapBackend {
	v := objects.MapBackend{
		Addr: objects.Addr(b.Addr.Addr()), Port: objects.Port(b.Addr.Port()),
		Proto: uint8(g.proto), Service: g.word,
	}
	if b.Local {
		v.Flags = uint8(objects.MapBackendFlagsBACKEND_LOCAL)
	}
	return v
}

// without returns what is in a and not in b.
func without(a, b []uint32) []uint32 {
	in := make(map[uint32]bool, len(b))
	for _, x := range b {
		in[x] = true
	}
	var rest []uint32
	for _, x := range a {
		if !in[x] {
			rest = append(rest, x)
		}
	}
	return rest
}
