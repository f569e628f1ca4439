// SPDX-License-Identifier: Apache-2.0

package services

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// errFull is returned by an allocator without a free range that is long enough.
var errFull = errors.New("no room left")

// span is the indexes from base on, n of them.
type span struct{ base, n uint32 }

func (s span) end() uint32 { return s.base + s.n }

// rested is a span that may be used again from a time on.
type rested struct {
	span
	free time.Time
}

// ranges gives out spans of the indexes 1 to size-1 of a map; index 0 is never
// used. It goes round, so that an index is used again as late as possible, and
// what is released rests first: a program may still be about to read it.
type ranges struct {
	size   uint32
	free   []span // sorted, none empty, none touching the next
	cursor uint32
	rest   []rested // in order of time
}

func newRanges(size uint32) *ranges {
	return &ranges{size: size, free: []span{{1, size - 1}}, cursor: 1}
}

// take marks a span that was in use before a restart. It tells whether all of
// it was free.
func (r *ranges) take(s span) bool {
	i := r.at(s.base)
	if s.n == 0 || i == len(r.free) || s.base < r.free[i].base || s.end() > r.free[i].end() || s.end() < s.base {
		return false
	}
	r.cut(i, s)
	return true
}

// resume goes on behind the highest index in use, after a restart: what rested
// then, and who remembers it, is not known any more.
func (r *ranges) resume() {
	if last := len(r.free) - 1; last >= 0 && r.free[last].end() == r.size {
		r.cursor = r.free[last].base
	}
}

// alloc returns the first free span of n indexes behind the one given last.
func (r *ranges) alloc(n uint32) (span, error) {
	start := r.at(r.cursor)
	for k := range len(r.free) + 1 { // once round, the first also from its beginning
		if len(r.free) == 0 {
			break
		}
		i := (start + k) % len(r.free)
		base := r.free[i].base
		if k == 0 && base < r.cursor && r.cursor < r.free[i].end() {
			base = r.cursor
		}
		if r.free[i].end()-base >= n {
			s := span{base, n}
			r.cut(i, s)
			r.cursor = s.end()
			return s, nil
		}
	}
	return span{}, errFull
}

// release lets a span rest until a time.
func (r *ranges) release(s span, until time.Time) {
	if s.n > 0 {
		r.rest = append(r.rest, rested{s, until})
	}
}

// wake frees what has rested by now and returns it.
func (r *ranges) wake(now time.Time) []span {
	var woken []span
	for len(r.rest) > 0 && !r.rest[0].free.After(now) {
		s := r.rest[0].span
		r.rest = r.rest[1:]
		r.insert(s)
		woken = append(woken, s)
	}
	return woken
}

// used is how many indexes are given out or rest.
func (r *ranges) used() uint32 {
	free := uint32(0)
	for _, s := range r.free {
		free += s.n
	}
	return r.size - 1 - free
}

// at is the first free span that ends behind index.
func (r *ranges) at(index uint32) int {
	i, _ := slices.BinarySearchFunc(r.free, index, func(s span, index uint32) int {
		if s.end() <= index {
			return -1
		}
		return 1
	})
	return i
}

// cut takes s out of free span i, in which it lies.
func (r *ranges) cut(i int, s span) {
	before := span{r.free[i].base, s.base - r.free[i].base}
	after := span{s.end(), r.free[i].end() - s.end()}
	switch {
	case before.n > 0 && after.n > 0:
		r.free[i] = before
		r.free = slices.Insert(r.free, i+1, after)
	case before.n > 0:
		r.free[i] = before
	case after.n > 0:
		r.free[i] = after
	default:
		r.free = slices.Delete(r.free, i, i+1)
	}
}

// insert puts s back, joined with its neighbours.
func (r *ranges) insert(s span) {
	i, _ := slices.BinarySearchFunc(r.free, s, func(a, b span) int { return cmp.Compare(a.base, b.base) })
	if i < len(r.free) && s.end() == r.free[i].base {
		s.n += r.free[i].n
		r.free = slices.Delete(r.free, i, i+1)
	}
	if i > 0 && r.free[i-1].end() == s.base {
		r.free[i-1].n += s.n
		return
	}
	r.free = slices.Insert(r.free, i, s)
}
