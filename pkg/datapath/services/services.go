// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// grace is how long slots, backends and services rest after the last word
// that named them was switched. A program that read the old word is through
// after microseconds.
const grace = 5 * time.Second

// Maps are the maps to own, and the flows to flush when a UDP backend goes.
type Maps struct {
	Frontends, Services, Slots, Backends, SourceRanges *ebpf.Map
	Flows, FlowsNew                                    *ebpf.Map
}

// Services is the owner of the maps. Its methods may be called concurrently.
type Services struct {
	mu    sync.Mutex
	maps  Maps
	clock func() time.Time

	words []uint64 // the services map, shared with the programs
	bytes []byte   // the same mapping

	wordIDs, slotIDs, backendIDs, sourceIDs *indexes.Set

	frontends map[objects.MapFrontendKey]objects.MapFrontend
	tables    map[uint32]*table
	sources   map[string]uint32 // id of a list of source ranges, by its text
	users     map[uint32]int    // of a word: how many frontends name it
	readers   map[uint32]int    // of a list of source ranges, likewise

	stopped   func(serving map[netip.AddrPort]map[netip.AddrPort]bool)
	entries   []service.Entry                // as last set; nil after a restart or an error
	served    []service.Entry                // as last set but for what was refused; nil after a restart
	addresses map[objects.MapFrontendKey]int // of an address alone: how many of entries have it
}

// Open takes over the maps with what is in them. The maps stay the caller's.
func Open(maps Maps, clock func() time.Time) (*Services, error) {
	size := int(maps.Services.MaxEntries()) * 8
	bytes, err := unix.Mmap(maps.Services.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map services into memory: %w", err)
	}
	s := &Services{
		maps: maps, clock: clock, bytes: bytes,
		words:      unsafe.Slice((*uint64)(unsafe.Pointer(&bytes[0])), size/8),
		wordIDs:    indexes.New(maps.Services.MaxEntries()),
		slotIDs:    indexes.New(maps.Slots.MaxEntries()),
		backendIDs: indexes.New(maps.Backends.MaxEntries()),
		sourceIDs:  indexes.New(maps.SourceRanges.MaxEntries()),
		frontends:  map[objects.MapFrontendKey]objects.MapFrontend{},
		tables:     map[uint32]*table{},
		sources:    map[string]uint32{},
		users:      map[uint32]int{},
		readers:    map[uint32]int{},
		addresses:  map[objects.MapFrontendKey]int{},
	}
	if err := s.restore(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets go of the maps; what is in them stays in force.
func (s *Services) Close() error { return unix.Munmap(s.bytes) }

// Set makes the maps say what entries say. The order lets every packet and
// every connect() meanwhile see a whole Service, old or new:
//
//  1. backends, slots and source ranges that are new: nobody looks there yet;
//  2. words: from here a Service's old frontends choose among its new backends
//     (and a new Service's word is there before its first frontend);
//  3. frontends that are new or differ;
//  4. frontends that are gone; only then are their words and source ranges
//     unused, and are cleared;
//  5. flows to UDP endpoints that no longer serve: after 2 none can be made again.
//
// What can't be done (no room for one Service) is reported, and the rest done;
// the Service concerned stays as it was.
func (s *Services) Set(entries []service.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()

	c := s.diff(entries)
	s.count(c.old, -1)
	s.count(c.entries, 1)
	p := s.plan(c.entries)
	errs := []error{s.addSources(p)}
	errs = append(errs, s.switchTables(p), s.writeFrontends(p), s.deleteFrontends(p, c.had), s.clear(), s.flush(c))
	err := errors.Join(errs...)
	entries = slices.Clone(entries)
	s.entries = nil
	if err == nil {
		s.entries = entries
	}
	if _, rest := Refusals(err); rest == nil {
		s.served = entries
	}
	return err
}

// OnStopped has f called whenever a UDP endpoint stops serving, never for what a
// restart finds: with the frontends concerned, and what serves each now. It must
// not call back.
func (s *Services) OnStopped(f func(serving map[netip.AddrPort]map[netip.AddrPort]bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = f
}

// Rest returns what has rested long enough to use. Call it now and then.
func (s *Services) Rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
}

func (s *Services) wake() {
	now := s.clock()
	s.wordIDs.Wake(now)
	s.slotIDs.Wake(now)
	s.backendIDs.Wake(now)
	s.sourceIDs.Wake(now)
}

// clear takes out the words and source ranges that no frontend names any
// more.
func (s *Services) clear() error {
	var gone []uint32
	for word, users := range s.users {
		if users > 0 {
			continue
		}
		delete(s.users, word)
		t := s.tables[word]
		if t == nil {
			continue
		}
		gone = append(append(gone, t.ids...), slices.Collect(maps.Keys(t.kept))...)
		s.setWord(word, indexes.Span{})
		s.slotIDs.Release(t.slots, s.clock().Add(grace))
		s.wordIDs.Release(indexes.One(word), s.clock().Add(grace))
		delete(s.tables, word)
	}
	return errors.Join(s.retire(gone), s.clearSources())
}

// setWord is the one store that switches a Service.
func (s *Services) setWord(index uint32, slots indexes.Span) {
	generation := atomic.LoadUint64(&s.words[index])>>48 + 1
	word := uint64(slots.Base) | uint64(slots.N)<<32 | generation<<48
	if slots.N == 0 {
		word = generation << 48
	}
	atomic.StoreUint64(&s.words[index], word)
}

func (s *Services) word(index uint32) indexes.Span {
	word := atomic.LoadUint64(&s.words[index])
	return indexes.Span{Base: uint32(word), N: uint32(uint16(word >> 32))}
}
