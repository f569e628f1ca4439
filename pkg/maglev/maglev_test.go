// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func backends(n int) []uint64 {
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = ID(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 8080))
	}
	return ids
}

// byID returns the table with identities in place of indexes.
func byID(ids []uint64, size int) []uint64 {
	out := make([]uint64, 0, size)
	for _, i := range Table(ids, size) {
		out = append(out, ids[i])
	}
	return out
}

func TestSize(t *testing.T) {
	tests := []struct{ n, want int }{
		{0, 251}, {1, 251}, {2, 251}, {3, 1021}, {10, 1021}, {11, 4093}, {40, 4093}, {100, 16381}, {250, 65521}, {5000, 65521},
	}
	for _, tt := range tests {
		if got := Size(tt.n); got != tt.want {
			t.Errorf("Size(%d): want %d, got %d", tt.n, tt.want, got)
		}
	}
	for _, size := range sizes {
		if !big.NewInt(int64(size)).ProbablyPrime(20) {
			t.Errorf("size %d: want a prime", size)
		}
	}
}

func TestTableEmpty(t *testing.T) {
	if got := Table(nil, 251); got != nil {
		t.Errorf("want nil without backends, got %d slots", len(got))
	}
}

// The table is part of what nodes of different versions must agree on.
func TestTableNeverChanges(t *testing.T) {
	want := []int{1, 0, 0, 0, 0, 2, 1, 2, 2, 1, 0, 1, 2}
	if got := Table(backends(3), 13); !slices.Equal(got, want) {
		t.Errorf("want %v, got %v", want, got)
	}
}

func TestTableOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ids := backends(20)
	want := byID(ids, 4093)
	for range 20 {
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		if !slices.Equal(byID(ids, 4093), want) {
			t.Fatal("want the same table for shuffled backends")
		}
	}
}

func TestTableEvenShares(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 40, 160, 655} {
		size := Size(n)
		shares := make([]int, n)
		for _, i := range Table(backends(n), size) {
			shares[i]++
		}
		if low, high := slices.Min(shares), slices.Max(shares); high-low > 1 {
			t.Errorf("%d backends: want shares that differ by one slot at most, got %d to %d", n, low, high)
		}
	}
}

// moved returns the part of slots that had another backend than gone in before
// and have a different one in after.
func moved(before, after []uint64, gone uint64) float64 {
	n := 0
	for i := range before {
		if before[i] != gone && before[i] != after[i] {
			n++
		}
	}
	return float64(n) / float64(len(before))
}

func TestTableRemovalDisturbsFew(t *testing.T) {
	for _, n := range []int{3, 10, 40, 100} {
		ids, size := backends(n), Size(n)
		before, sum, worst := byID(ids, size), 0.0, 0.0
		for i := range ids {
			m := moved(before, byID(slices.Delete(slices.Clone(ids), i, i+1), size), ids[i])
			sum, worst = sum+m, max(worst, m)
		}
		t.Logf("%d backends, %d slots: removal of one moves %.2f %% of the others' slots, worst %.2f %%", n, size, 100*sum/float64(n), 100*worst)
		if worst > 0.06 {
			t.Errorf("%d backends: want at most 6 %% of slots moved needlessly, got %.2f %%", n, 100*worst)
		}
	}
}

func TestIDs(t *testing.T) {
	seen := map[uint64]string{}
	for i := range 256 {
		for _, format := range []string{"10.244.0.%d:80", "10.244.0.%d:81", "[fd00::%x]:80"} {
			s := fmt.Sprintf(format, i)
			id := ID(netip.MustParseAddrPort(s))
			if other, ok := seen[id]; ok {
				t.Errorf("want different identities, got one for %s and %s", s, other)
			}
			seen[id] = s
		}
	}
}

func BenchmarkTable(b *testing.B) {
	for _, n := range []int{3, 10, 100, 1000} {
		b.Run(fmt.Sprint(n, " backends"), func(b *testing.B) {
			ids, size := backends(n), Size(n)
			b.ReportAllocs()
			for b.Loop() {
				Table(ids, size)
			}
		})
	}
}
