// SPDX-License-Identifier: Apache-2.0

package indexes

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func TestGoRound(t *testing.T) {
	r := New(10)
	first, _ := r.Alloc(3)
	second, _ := r.Alloc(3)
	if first != (Span{1, 3}) || second != (Span{4, 3}) {
		t.Fatalf("want 1+3 and 4+3, got %v and %v", first, second)
	}
	now := time.Unix(100, 0)
	r.Release(first, now)
	if _, err := r.Alloc(4); !errors.Is(err, ErrFull) {
		t.Fatalf("want ErrFull while 1+3 rests, got %v", err)
	}
	if woken := r.Wake(now.Add(-1)); len(woken) != 0 {
		t.Fatalf("want nothing rested yet, got %v", woken)
	}
	r.Wake(now)
	if s, _ := r.Alloc(3); s != (Span{7, 3}) {
		t.Fatalf("want the never used 7+3 first, got %v", s)
	}
	if s, _ := r.Alloc(3); s != first {
		t.Fatalf("want %v again, got %v", first, s)
	}
	if r.Used() != 9 {
		t.Fatalf("want 9 used, got %d", r.Used())
	}
}

func TestTake(t *testing.T) {
	r := New(100)
	for _, tt := range []struct {
		name string
		s    Span
		want bool
	}{
		{"middle", Span{10, 10}, true},
		{"again", Span{10, 10}, false},
		{"overlap", Span{19, 2}, false},
		{"touching", Span{20, 5}, true},
		{"zero index", Span{0, 1}, false},
		{"past the end", Span{95, 6}, false},
		{"last", Span{99, 1}, true},
		{"wrapping", Span{50, 0xffffffff}, false},
		{"empty", Span{50, 0}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := r.Take(tt.s); got != tt.want {
				t.Fatalf("take %v: want %v, got %v", tt.s, tt.want, got)
			}
		})
	}
}

// TestRangesOracle compares with a slow table of owners on random input.
func TestOracle(t *testing.T) {
	const size = 300
	rnd := rand.New(rand.NewPCG(1, 2))
	r := New(size)
	owner := [size]int{-1}
	now := time.Unix(0, 0)
	var held []Span
	resting := map[Span]time.Time{}
	for step := 1; step < 20000; step++ {
		now = now.Add(time.Second)
		for _, s := range r.Wake(now) {
			if until, ok := resting[s]; !ok || until.After(now) {
				t.Fatalf("step %d: %v woke early", step, s)
			}
			delete(resting, s)
			for i := s.Base; i < s.End(); i++ {
				owner[i] = 0
			}
		}
		if len(held) > 0 && rnd.IntN(2) == 0 {
			i := rnd.IntN(len(held))
			until := now.Add(3 * time.Second)
			r.Release(held[i], until)
			resting[held[i]] = until
			held = append(held[:i], held[i+1:]...)
			continue
		}
		n := uint32(1 + rnd.IntN(20))
		s, err := r.Alloc(n)
		if err != nil {
			if free := longestFree(owner[:]); free >= int(n) {
				t.Fatalf("step %d: %d in a row free, alloc of %d says %v", step, free, n, err)
			}
			continue
		}
		for i := s.Base; i < s.End(); i++ {
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
	r := New(8)
	if !r.Take(Span{2, 1}) || !r.Take(Span{4, 2}) {
		t.Fatal("want both free")
	}
	r.Resume()
	for _, want := range []uint32{6, 7, 1, 3} {
		if got, err := r.Alloc(1); err != nil || got.Base != want {
			t.Errorf("want index %d, got %v, %v", want, got, err)
		}
	}
}
