// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func table(uses map[string]Use) Look {
	return func(a netip.Addr) (Use, error) { return uses[a.String()], nil }
}

func resting(d time.Duration) Use { return Use{State: Resting, Rested: d} }

func TestNext(t *testing.T) {
	pool := newPool(t, "p", subnet("10.0.0.0/29", "", "10.0.0.4", ""))
	held := Use{State: Held}
	tests := []struct {
		name, cursor string
		uses         map[string]Use
		want         Choice
		err          error
	}{
		{name: "first", want: Choice{Addr: addr("10.0.0.1")}},
		{name: "behind the cursor", cursor: "10.0.0.2", want: Choice{Addr: addr("10.0.0.3")}},
		{name: "wraps", cursor: "10.0.0.4", want: Choice{Addr: addr("10.0.0.1")}},
		{name: "cursor of another time", cursor: "192.168.0.1", want: Choice{Addr: addr("10.0.0.1")}},
		{name: "cursor of another family", cursor: "fd00::1", want: Choice{Addr: addr("10.0.0.1")}},
		{name: "skips held", uses: map[string]Use{"10.0.0.1": held, "10.0.0.2": held}, want: Choice{Addr: addr("10.0.0.3")}},
		{name: "skips resting", uses: map[string]Use{"10.0.0.1": resting(59 * time.Second)}, want: Choice{Addr: addr("10.0.0.2")}},
		{name: "rested enough", uses: map[string]Use{"10.0.0.1": resting(time.Minute)}, want: Choice{Addr: addr("10.0.0.1")}},
		{name: "longest rested", uses: map[string]Use{"10.0.0.1": resting(6 * time.Second), "10.0.0.2": resting(9 * time.Second), "10.0.0.3": held, "10.0.0.4": resting(7 * time.Second)},
			want: Choice{Addr: addr("10.0.0.2"), Early: true}},
		{name: "none rested enough", uses: map[string]Use{"10.0.0.1": resting(4 * time.Second), "10.0.0.2": held, "10.0.0.3": held, "10.0.0.4": resting(0)}, err: ErrExhausted},
		{name: "all held", uses: map[string]Use{"10.0.0.1": held, "10.0.0.2": held, "10.0.0.3": held, "10.0.0.4": held}, err: ErrExhausted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := pool.Next(addr(test.cursor), DefaultRest(), table(test.uses))
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("Next = %v, %v, want %v, %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestTake(t *testing.T) {
	look := table(map[string]Use{
		"10.0.0.1": {State: Held}, "10.0.0.2": resting(time.Second), "10.0.0.3": resting(10 * time.Second), "10.0.0.4": resting(time.Hour),
	})
	tests := []struct {
		addr string
		want Choice
		err  error
	}{
		{"10.0.0.1", Choice{}, ErrHeld},
		{"10.0.0.2", Choice{}, ErrResting},
		{"10.0.0.3", Choice{addr("10.0.0.3"), true}, nil},
		{"10.0.0.4", Choice{addr("10.0.0.4"), false}, nil},
		{"10.0.0.5", Choice{addr("10.0.0.5"), false}, nil},
	}
	for _, test := range tests {
		if got, err := DefaultRest().Take(addr(test.addr), look); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("Take(%s) = %v, %v, want %v, %v", test.addr, got, err, test.want, test.err)
		}
	}
}

func TestLookErrors(t *testing.T) {
	broken := errors.New("broken")
	look := func(netip.Addr) (Use, error) { return Use{}, broken }
	pool := newPool(t, "p", subnet("10.0.0.0/29", "", "", ""))
	if _, err := pool.Next(netip.Addr{}, DefaultRest(), look); !errors.Is(err, broken) {
		t.Errorf("Next: %v", err)
	}
	if _, err := DefaultRest().Take(addr("10.0.0.1"), look); !errors.Is(err, broken) {
		t.Errorf("Take: %v", err)
	}
}

// oracle lists every address that a pool may give, the slow and obvious way.
func oracle(subnets []Subnet) []netip.Addr {
	var all []netip.Addr
	for _, s := range subnets {
		network, broadcast := s.Prefix.Addr(), lastAddr(s.Prefix)
		for a := network; s.Prefix.Contains(a); a = a.Next() {
			ok := a != s.Gateway
			if s.Prefix.Addr().BitLen()-s.Prefix.Bits() >= 2 {
				ok = ok && (a != network || s.First == a) && (a.Is6() || a != broadcast || s.Last == a)
			}
			ok = ok && (!s.First.IsValid() || !a.Less(s.First)) && (!s.Last.IsValid() || !s.Last.Less(a))
			for _, e := range s.Exclude {
				ok = ok && !e.Contains(a)
			}
			if ok {
				all = append(all, a)
			}
		}
	}
	return all
}

// randomSubnet returns a small subnet below base, its parts chosen by chance.
func randomSubnet(r *rand.Rand, base string) Subnet {
	network := netip.MustParsePrefix(base)
	s := Subnet{Prefix: netip.PrefixFrom(network.Addr(), network.Addr().BitLen()-r.IntN(6)).Masked()}
	pick := func() netip.Addr {
		a := s.Prefix.Addr()
		for range r.IntN(1 << (a.BitLen() - s.Prefix.Bits())) {
			a = a.Next()
		}
		return a
	}
	if r.IntN(3) == 0 {
		s.First = pick()
	}
	if r.IntN(3) == 0 {
		s.Last = pick()
	}
	if r.IntN(2) == 0 {
		s.Gateway = pick()
	}
	for range r.IntN(3) {
		s.Exclude = append(s.Exclude, netip.PrefixFrom(pick(), s.Prefix.Addr().BitLen()-r.IntN(3)).Masked())
	}
	return s
}

// TestAgainstOracle gives and frees addresses of random pools and compares
// each choice with what a walk over the listed addresses would choose.
func TestAgainstOracle(t *testing.T) {
	bases := [][]string{{"10.0.0.0/24", "10.0.1.0/24"}, {"fd00::/120", "fd00:0:0:1::/120"}, {"255.255.255.0/24", "0.0.0.0/24"}}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		var subnets []Subnet
		for _, base := range bases[r.IntN(len(bases))][:1+r.IntN(2)] {
			subnets = append(subnets, randomSubnet(r, base))
		}
		pool, err := NewPool("p", subnets...)
		all := oracle(subnets)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue // refused: at least one part has nothing to give
		}
		if err := churn(r, pool, all); err != nil {
			t.Fatalf("seed %d: pool %s of %+v: %v", seed, pool, subnets, err)
		}
	}
}

func churn(r *rand.Rand, pool Pool, all []netip.Addr) error {
	if pool.Size() != uint64(len(all)) {
		return fmt.Errorf("size %d, want %d", pool.Size(), len(all))
	}
	var now time.Duration
	held, freed := map[netip.Addr]bool{}, map[netip.Addr]time.Duration{}
	look := func(a netip.Addr) (Use, error) {
		if held[a] {
			return Use{State: Held}, nil
		}
		if at, ok := freed[a]; ok {
			return resting(now - at), nil
		}
		return Use{}, nil
	}
	var cursor netip.Addr
	for range 4 * len(all) {
		now += time.Duration(r.IntN(8)) * time.Second
		if len(held) > 0 && r.IntN(3) == 0 {
			for a := range held {
				delete(held, a)
				freed[a] = now
				break
			}
			continue
		}
		got, err := pool.Next(cursor, DefaultRest(), look)
		if want := expect(all, cursor, look); err == nil != want.IsValid() || !sameRest(got.Addr, want, look) {
			return fmt.Errorf("after %s: Next = %v, %v, want %v", cursor, got, err, want)
		}
		if err == nil {
			held[got.Addr] = true
			delete(freed, got.Addr)
			cursor = got.Addr
		}
	}
	return nil
}

// sameRest reports whether two addresses are the same, or of equal rest.
func sameRest(a, b netip.Addr, look Look) bool {
	useA, _ := look(a)
	useB, _ := look(b)
	return a == b || useA == useB && useA.State == Resting
}

// expect walks the listed addresses: first a free one behind the cursor, then
// from the start, then the longest-rested.
func expect(all []netip.Addr, cursor netip.Addr, look Look) netip.Addr {
	sorted := append([]netip.Addr(nil), all...)
	for i := range sorted {
		for j := range sorted[:i] {
			if sorted[i].Less(sorted[j]) {
				sorted[i], sorted[j] = sorted[j], sorted[i]
			}
		}
	}
	var before, behind, best netip.Addr
	var longest time.Duration
	for _, a := range sorted {
		use, _ := look(a)
		switch {
		case use.State == Free || use.State == Resting && use.Rested >= time.Minute:
			if cursor.IsValid() && !cursor.Less(a) {
				if !before.IsValid() {
					before = a
				}
			} else if !behind.IsValid() {
				behind = a
			}
		case use.State == Resting && use.Rested >= 5*time.Second && use.Rested > longest:
			best, longest = a, use.Rested
		}
	}
	for _, a := range []netip.Addr{behind, before, best} {
		if a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

func BenchmarkNext(b *testing.B) {
	pool := newPool(b, "p", subnet("10.0.0.0/22", "", "", ""))
	free := func(netip.Addr) (Use, error) { return Use{}, nil }
	var cursor netip.Addr
	b.ReportAllocs()
	for b.Loop() {
		choice, err := pool.Next(cursor, DefaultRest(), free)
		if err != nil {
			b.Fatal(err)
		}
		cursor = choice.Addr
	}
}
