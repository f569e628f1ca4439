// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func TestRangesGoRound(t *testing.T) {
	r := newRanges(10)
	first, _ := r.alloc(3)
	second, _ := r.alloc(3)
	if first != (span{1, 3}) || second != (span{4, 3}) {
		t.Fatalf("want 1+3 and 4+3, got %v and %v", first, second)
	}
	now := time.Unix(100, 0)
	r.release(first, now)
	if _, err := r.alloc(4); !errors.Is(err, errFull) {
		t.Fatalf("want errFull while 1+3 rests, got %v", err)
	}
	if woken := r.wake(now.Add(-1)); len(woken) != 0 {
		t.Fatalf("want nothing rested yet, got %v", woken)
	}
	r.wake(now)
	if s, _ := r.alloc(3); s != (span{7, 3}) {
		t.Fatalf("want the never used 7+3 first, got %v", s)
	}
	if s, _ := r.alloc(3); s != first {
		t.Fatalf("want %v again, got %v", first, s)
	}
	if r.used() != 9 {
		t.Fatalf("want 9 used, got %d", r.used())
	}
}

func TestRangesTake(t *testing.T) {
	r := newRanges(100)
	for _, tt := range []struct {
		name string
		s    span
		want bool
	}{
		{"middle", span{10, 10}, true},
		{"again", span{10, 10}, false},
		{"overlap", span{19, 2}, false},
		{"touching", span{20, 5}, true},
		{"zero index", span{0, 1}, false},
		{"past the end", span{95, 6}, false},
		{"last", span{99, 1}, true},
		{"wrapping", span{50, 0xffffffff}, false},
		{"empty", span{50, 0}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := r.take(tt.s); got != tt.want {
				t.Fatalf("take %v: want %v, got %v", tt.s, tt.want, got)
			}
		})
	}
}

// TestRangesOracle compares with a slow table of owners on random input.
func TestRangesOracle(t *testing.T) {
	const size = 300
	rnd := rand.New(rand.NewPCG(1, 2))
	r := newRanges(size)
	owner := [size]int{-1}
	now := time.Unix(0, 0)
	var held []span
	resting := map[span]time.Time{}
	for step := 1; step < 20000; step++ {
		now = now.Add(time.Second)
		for _, s := range r.wake(now) {
			if until, ok := resting[s]; !ok || until.After(now) {
				t.Fatalf("step %d: %v woke early", step, s)
			}
			delete(resting, s)
			for i := s.base; i < s.end(); i++ {
				owner[i] = 0
			}
		}
		if len(held) > 0 && rnd.IntN(2) == 0 {
			i := rnd.IntN(len(held))
			until := now.Add(3 * time.Second)
			r.release(held[i], until)
			resting[held[i]] = until
			held = append(held[:i], held[i+1:]...)
			continue
		}
		n := uint32(1 + rnd.IntN(20))
		s, err := r.alloc(n)
		if err != nil {
			if free := longestFree(owner[:]); free >= int(n) {
				t.Fatalf("step %d: %d in a row free, alloc of %d says %v", step, free, n, err)
			}
			continue
		}
		for i := s.base; i < s.end(); i++ {
			if owner[i] != 0 {
				t.Fatalf("step %d: index %d given twice (%d)", step, i, owner[i])
			}
			owner[i] = step
		}
		held = append(held, s)
	}
}

func longestFree(owner []int) int {
	longest, run := 0, 0
	for _, o := range owner {
		run++
		if o != 0 {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}

// TestResume goes on behind what is in use after a restart, and round again.
func TestResume(t *testing.T) {
	r := newRanges(8)
	if !r.take(span{2, 1}) || !r.take(span{4, 2}) {
		t.Fatal("want both free")
	}
	r.resume()
	for _, want := range []uint32{6, 7, 1, 3} {
		if got, err := r.alloc(1); err != nil || got.base != want {
			t.Errorf("want index %d, got %v, %v", want, got, err)
		}
	}
}
