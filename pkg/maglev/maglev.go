// SPDX-License-Identifier: Apache-2.0

// Package maglev fills look-up tables by the Maglev method: every backend has
// nearly the same number of slots, and when one comes or goes nearly all slots
// of the others stay as they are. A table depends on the identities of the
// backends and its size, on nothing else, so that all nodes make the same one.
//
//	size := maglev.Size(len(backends))
//	slots := maglev.Table(ids, size) // slots[hash % size] is an index into ids
package maglev

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// sizes are primes. A table has at least 100 slots for each backend, which
// keeps the shares of any two within some per cent; few steps, because a
// change of the size moves nearly every slot.
var sizes = [...]int{251, 1021, 4093, 16381, 65521}

const slotsPerBackend = 100

// Size returns the size of the table for n backends: a prime, at most 65521.
func Size(n int) int {
	for _, size := range sizes {
		if n*slotsPerBackend <= size {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// ID returns a backend's identity, which depends on its address and port alone.
func ID(backend netip.AddrPort) uint64 {
	addr := backend.Addr().As16()
	h := fnv.New64a()
	h.Write(addr[:])
	h.Write(binary.BigEndian.AppendUint16(nil, backend.Port()))
	return mix(h.Sum64())
}

// Table returns size slots, each an index into ids. The order of ids doesn't
// matter for which identity a slot has; ids are expected to differ, and size to
// be a prime. Without backends every slot would be empty: it returns nil.
func Table(ids []uint64, size int) []int {
	if len(ids) == 0 || size <= 0 {
		return nil
	}
	walks := make([]walk, len(ids))
	for i, id := range ids {
		walks[i] = newWalk(i, id, size)
	}
	slices.SortFunc(walks, func(a, b walk) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index))
	})
	slots := make([]int, size)
	for i := range slots {
		slots[i] = -1
	}
	for filled := 0; ; {
		for i := range walks {
			slots[walks[i].nextFree(slots)] = walks[i].index
			if filled++; filled == size {
				return slots
			}
		}
	}
}

// walk is a backend's own order of all slots, by steps that a prime size makes
// visit each once.
type walk struct {
	index    int
	id       uint64
	at, step int
}

func newWalk(index int, id uint64, size int) walk {
	w := walk{index: index, id: id, at: int(mix(id^0x9e3779b97f4a7c15) % uint64(size)), step: 1}
	if size > 1 {
		w.step = 1 + int(mix(id^0xc2b2ae3d27d4eb4f)%uint64(size-1))
	}
	return w
}

// nextFree returns the first free slot on the walk. The caller fills it.
func (w *walk) nextFree(slots []int) int {
	for {
		slot := w.at
		w.at = (w.at + w.step) % len(slots)
		if slots[slot] < 0 {
			return slot
		}
	}
}

// mix spreads each bit of x over the whole word (the finaliser of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
