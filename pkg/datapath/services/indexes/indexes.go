// SPDX-License-Identifier: Apache-2.0

// Package indexes gives out the indexes of a map. It is pure.
package indexes

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// ErrFull is returned by an allocator without a free range that is long enough.
var ErrFull = errors.New("no room left")

// Span is the indexes from Base on, N of them.
type Span struct{ Base, N uint32 }

// One is the span of one index.
func One(index uint32) Span { return Span{index, 1} }

// End is the index behind the span.
func (s Span) End() uint32 { return s.Base + s.N }

// rested is a span that may be used again from a time on.
type rested struct {
	Span
	free time.Time
}

// Set gives out spans of the indexes 1 to size-1 of a map; index 0 is never
// used. It goes round, so that an index is used again as late as possible, and
// what is released rests first: a program may still be about to read it.
type Set struct {
	size   uint32
	free   []Span // sorted, none empty, none touching the next
	cursor uint32
	rest   []rested // in order of time
}

// New is a set with no index in use.
func New(size uint32) *Set {
	return &Set{size: size, free: []Span{{1, size - 1}}, cursor: 1}
}

// Take marks a span that was in use before a restart. It tells whether all of
// it was free.
func (r *Set) Take(s Span) bool {
	i := r.at(s.Base)
	if s.N == 0 || i == len(r.free) || s.Base < r.free[i].Base || s.End() > r.free[i].End() || s.End() < s.Base {
		return false
	}
	r.cut(i, s)
	return true
}

// Resume goes on behind the highest index in use, after a restart: what rested
// then, and who remembers it, is not known any more.
func (r *Set) Resume() {
	if last := len(r.free) - 1; last >= 0 && r.free[last].End() == r.size {
		r.cursor = r.free[last].Base
	}
}

// Alloc returns the first free span of n indexes behind the one given last.
func (r *Set) Alloc(n uint32) (Span, error) {
	start := r.at(r.cursor)
	for k := range len(r.free) + 1 { // once round, the first also from its beginning
		if len(r.free) == 0 {
			break
		}
		i := (start + k) % len(r.free)
		base := r.free[i].Base
		if k == 0 && base < r.cursor && r.cursor < r.free[i].End() {
			base = r.cursor
		}
		if r.free[i].End()-base >= n {
			s := Span{base, n}
			r.cut(i, s)
			r.cursor = s.End()
			return s, nil
		}
	}
	return Span{}, ErrFull
}

// Release lets a span rest until a time.
func (r *Set) Release(s Span, until time.Time) {
	if s.N > 0 {
		r.rest = append(r.rest, rested{s, until})
	}
}

// Wake frees what has rested by now and returns it.
func (r *Set) Wake(now time.Time) []Span {
	var woken []Span
	for len(r.rest) > 0 && !r.rest[0].free.After(now) {
		s := r.rest[0].Span
		r.rest = r.rest[1:]
		r.insert(s)
		woken = append(woken, s)
	}
	return woken
}

// Used is how many indexes are given out or rest.
func (r *Set) Used() uint32 {
	free := uint32(0)
	for _, s := range r.free {
		free += s.N
	}
	return r.size - 1 - free
}

// Resting is how many indexes rest.
func (r *Set) Resting() uint32 {
	n := uint32(0)
	for _, s := range r.rest {
		n += s.N
	}
	return n
}

// at is the first free span that ends behind index.
func (r *Set) at(index uint32) int {
	i, _ := slices.BinarySearchFunc(r.free, index, func(s Span, index uint32) int {
		if s.End() <= index {
			return -1
		}
		return 1
	})
	return i
}

// cut takes s out of free span i, in which it lies.
func (r *Set) cut(i int, s Span) {
	before := Span{r.free[i].Base, s.Base - r.free[i].Base}
	after := Span{s.End(), r.free[i].End() - s.End()}
	switch {
	case before.N > 0 && after.N > 0:
		r.free[i] = before
		r.free = slices.Insert(r.free, i+1, after)
	case before.N > 0:
		r.free[i] = before
	case after.N > 0:
		r.free[i] = after
	default:
		r.free = slices.Delete(r.free, i, i+1)
	}
}

// insert puts s back, joined with its neighbours.
func (r *Set) insert(s Span) {
	i, _ := slices.BinarySearchFunc(r.free, s, func(a, b Span) int { return cmp.Compare(a.Base, b.Base) })
	if i < len(r.free) && s.End() == r.free[i].Base {
		s.N += r.free[i].N
		r.free = slices.Delete(r.free, i, i+1)
	}
	if i > 0 && r.free[i-1].End() == s.Base {
		r.free[i-1].N += s.N
		return
	}
	r.free = slices.Insert(r.free, i, s)
}
