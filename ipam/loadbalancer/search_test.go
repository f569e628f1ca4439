// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// finds returns a search that has found these, and is on for the rest.
func finds(free, occupied []netip.Addr) func(Record) Finding {
	return func(r Record) Finding {
		switch {
		case slices.Contains(free, r.Addr):
			return Finding{Search: Free}
		case slices.Contains(occupied, r.Addr):
			return Finding{Search: Occupied, By: "02:00:00:00:00:09, seen by node a"}
		}
		return Finding{}
	}
}

func reserved(addr string, owners ...string) Record { return record(addr, Reserved, 0, owners...) }

func TestPlanSearch(t *testing.T) {
	a := pool(t, "a", "192.0.2.1-192.0.2.3", "fd00:c0::1-fd00:c0::3")
	b := pool(t, "b", "192.0.2.7-192.0.2.9")
	const on = "searching the network for other machines with "
	tests := []struct {
		name string
		in   Input
		want []string
		recs []string // "address state owners" afterwards
	}{
		{"first reserved", Input{Services: []Service{svc("x")}, Search: finds(nil, nil)},
			[]string{"x=: " + on + "192.0.2.1"}, []string{"192.0.2.1 reserved x"}},
		{"reserved, the search is on", Input{Services: []Service{svc("x")}, Records: []Record{reserved("192.0.2.2", "x")}, Search: finds(nil, nil)},
			[]string{"x=: " + on + "192.0.2.2"}, []string{"192.0.2.2 reserved x"}},
		{"found free", Input{Services: []Service{svc("x")}, Records: []Record{reserved("192.0.2.2", "x")}, Search: finds(addrs("192.0.2.2"), nil)},
			[]string{"x=192.0.2.2"}, []string{"192.0.2.2 active x"}},
		{"found occupied: the next", Input{Services: []Service{svc("x")}, Records: []Record{reserved("192.0.2.1", "x")}, Search: finds(nil, addrs("192.0.2.1"))},
			[]string{"x=: " + on + "192.0.2.2"}, []string{"192.0.2.1 conflicted ", "192.0.2.2 reserved x"}},
		{"nobody can search", Input{Services: []Service{svc("x")}, Records: []Record{reserved("192.0.2.1", "x")},
			Search: func(Record) Finding { return Finding{Search: Impossible} }}, []string{"x=192.0.2.1"}, []string{"192.0.2.1 active x"}},
		{"active ones aren't searched for", Input{Services: []Service{svc("x", status("192.0.2.1"))}, Records: []Record{active("192.0.2.1", "x")},
			Search: finds(nil, addrs("192.0.2.1"))}, []string{"x=192.0.2.1"}, []string{"192.0.2.1 active x"}},
		{"nor is what stands in a status", Input{Services: []Service{svc("x", status("192.0.2.1"))}, Search: finds(nil, nil)},
			[]string{"x=192.0.2.1"}, []string{"192.0.2.1 active x"}},
		{"requested and occupied: waits", Input{Services: []Service{svc("x", asks("192.0.2.1"))}, Records: []Record{reserved("192.0.2.1", "x")}, Search: finds(nil, addrs("192.0.2.1"))},
			[]string{"x=: address is not free: another machine on the network uses 192.0.2.1 (02:00:00:00:00:09, seen by node a)"}, []string{"192.0.2.1 conflicted "}},
		{"requested, no longer occupied", Input{Services: []Service{svc("x", asks("192.0.2.1"))}, Records: []Record{record("192.0.2.1", Conflicted, 0)}, Search: finds(addrs("192.0.2.1"), nil)},
			[]string{"x=: " + on + "192.0.2.1"}, []string{"192.0.2.1 reserved x"}},
		{"a conflict that is over is forgotten", Input{Records: []Record{record("192.0.2.1", Conflicted, 0)}, Search: finds(addrs("192.0.2.1"), nil)}, nil, nil},
		{"keeps the old one meanwhile", Input{Services: []Service{svc("x", asks("192.0.2.3"), status("192.0.2.1"))}, Records: []Record{active("192.0.2.1", "x")}, Search: finds(nil, nil)},
			[]string{"x=192.0.2.1: " + on + "192.0.2.3"}, []string{"192.0.2.1 active x", "192.0.2.3 reserved x"}},
		{"and gives it back then", Input{Services: []Service{svc("x", asks("192.0.2.3"), status("192.0.2.1"))},
			Records: []Record{active("192.0.2.1", "x"), reserved("192.0.2.3", "x")}, Search: finds(addrs("192.0.2.3"), nil)},
			[]string{"x=192.0.2.3"}, []string{"192.0.2.1 cooling x", "192.0.2.3 active x"}},
		{"into another pool", Input{Services: []Service{svc("x", named("b"), status("192.0.2.1"))},
			Records: []Record{active("192.0.2.1", "x"), inPool("b", reserved("192.0.2.8", "x"))}, Search: finds(nil, nil)},
			[]string{"x=192.0.2.1: " + on + "192.0.2.8"}, []string{"192.0.2.1 active x", "192.0.2.8 reserved x"}},
		{"wish taken back", Input{Services: []Service{svc("x", status("192.0.2.1"))},
			Records: []Record{active("192.0.2.1", "x"), reserved("192.0.2.3", "x")}, Search: finds(nil, nil)},
			[]string{"x=192.0.2.1"}, []string{"192.0.2.1 active x", "192.0.2.3 cooling x"}},
		{"one family first", Input{Services: []Service{svc("x", dual)}, Records: []Record{reserved("192.0.2.1", "x"), reserved("fd00:c0::1", "x")}, Search: finds(addrs("fd00:c0::1"), nil)},
			[]string{"x=fd00:c0::1: " + on + "192.0.2.1"}, []string{"192.0.2.1 reserved x", "fd00:c0::1 active x"}},
		{"both or none", Input{Services: []Service{svc("x", all)}, Records: []Record{reserved("192.0.2.1", "x"), reserved("fd00:c0::1", "x")}, Search: finds(addrs("fd00:c0::1"), nil)},
			[]string{"x=: " + on + "192.0.2.1"}, []string{"192.0.2.1 reserved x", "fd00:c0::1 active x"}},
		{"both", Input{Services: []Service{svc("x", all)}, Records: []Record{reserved("192.0.2.1", "x"), reserved("fd00:c0::1", "x")}, Search: finds(addrs("192.0.2.1", "fd00:c0::1"), nil)},
			[]string{"x=192.0.2.1 fd00:c0::1"}, []string{"192.0.2.1 active x", "fd00:c0::1 active x"}},
		{"shared while it is searched for", Input{Services: []Service{svc("x", shares("k", 80)), svc("y", shares("k", 81))}, Records: []Record{keyed("k", reserved("192.0.2.1", "x"))}, Search: finds(nil, nil)},
			[]string{"x=: " + on + "192.0.2.1", "y=: " + on + "192.0.2.1"}, []string{"192.0.2.1 reserved x y"}},
		{"owner gone meanwhile", Input{Records: []Record{reserved("192.0.2.1", "x")}, Search: finds(nil, nil)}, nil, []string{"192.0.2.1 cooling x"}},
		{"others don't get it meanwhile", Input{Services: []Service{svc("x"), svc("y", asks("192.0.2.1"))}, Records: []Record{reserved("192.0.2.1", "x")}, Search: finds(nil, nil)},
			[]string{"x=: " + on + "192.0.2.1", "y=: address is not free: 192.0.2.1 is that of default/x"}, []string{"192.0.2.1 reserved x"}},
		{"a freed one is searched for anew", Input{Now: at(5), Services: []Service{svc("x")}, Records: []Record{record("192.0.2.2", Cooling, 0, "x")}, Search: finds(nil, nil)},
			[]string{"x=: " + on + "192.0.2.2"}, []string{"192.0.2.2 reserved x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Pools = []Pool{a, b}
			r := Plan(tt.in)
			if diff := cmp.Diff(tt.want, show(r)); diff != "" {
				t.Errorf("assignments (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.recs, write(apply(tt.in.Records, r))); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			for _, as := range r.Assignments {
				if len(as.Addrs) == 0 && as.Reason != nil && !errors.Is(as.Reason, ErrSearching) && !errors.Is(as.Reason, ErrInUse) {
					t.Errorf("want a reason that names its kind, got %v", as.Reason)
				}
			}
		})
	}
}

func inPool(name string, r Record) Record { r.Pool = name; return r }

// write writes records as TestPlanSearch has them.
func write(records []Record) []string {
	names := map[State]string{Active: "active", Cooling: "cooling", Conflicted: "conflicted", Reserved: "reserved"}
	var out []string
	for _, r := range records {
		text := fmt.Sprintf("%s %s ", r.Addr, names[r.State])
		for i, owner := range r.Owners {
			if i > 0 {
				text += " "
			}
			text += owner.Name
		}
		out = append(out, text)
	}
	return out
}

// TestConflictsAreTold: with who was to have it, once.
func TestConflictsAreTold(t *testing.T) {
	in := Input{
		Pools: []Pool{pool(t, "a", "192.0.2.1-192.0.2.3")}, Services: []Service{svc("x")},
		Records: []Record{reserved("192.0.2.1", "x")}, Search: finds(nil, addrs("192.0.2.1")),
	}
	r := Plan(in)
	want := []Conflict{{netip.MustParseAddr("192.0.2.1"), "a", []Name{name("x")}, "02:00:00:00:00:09, seen by node a"}}
	if diff := cmp.Diff(want, r.Conflicts, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	in.Records = apply(in.Records, r)
	if r := Plan(in); len(r.Conflicts) > 0 {
		t.Errorf("want it told once, got %+v", r.Conflicts)
	}
}

// TestStrays: a pool that was shrunk, or is gone, leaves its owners what they
// have, and says so.
func TestStrays(t *testing.T) {
	for _, pools := range [][]Pool{nil, {pool(t, "a", "192.0.2.5-192.0.2.9")}} {
		in := Input{Pools: pools, Services: []Service{svc("x", status("192.0.2.1"))}, Records: []Record{active("192.0.2.1", "x")}}
		r := Plan(in)
		if a := r.Assignments[0]; !slices.Equal(a.Addrs, addrs("192.0.2.1")) || !slices.Equal(a.Strays, a.Addrs) || a.Reason != nil {
			t.Errorf("want it kept and told, got %+v", a)
		}
		if len(pools) > 0 && r.Usage[0].Strays != 1 {
			t.Errorf("want it counted, got %+v", r.Usage)
		}
	}
}

// TestSearchKilledAtRandom kills the controller after any write while searches
// come to all sorts of ends: no status ever names an address that isn't active.
func TestSearchKilledAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	pools := []Pool{pool(t, "a", "192.0.2.1-192.0.2.6", "fd00:c0::1-fd00:c0::4"), pool(t, "b", "192.0.2.7-192.0.2.8")}
	w := &world{services: map[Name]Service{}, settled: map[Name][]netip.Addr{}}
	given := 0
	for round := range 5000 {
		w.seconds += r.IntN(20)
		if r.IntN(2) == 0 {
			w.mutate(r)
		}
		in := w.input(r, pools)
		in.Search = chance(uint64(round / 3)) // the same findings in several rounds, as with an agent's report
		result := Plan(in)
		if diff := cmp.Diff(show(result), show(Plan(in))); diff != "" {
			t.Fatalf("round %d: want the same plan again:\n%s", round, diff)
		}
		w.write(result, r.IntN(8))
		w.check(t, round)
		for _, s := range w.services {
			given += len(s.Status)
		}
	}
	if given < 5000 {
		t.Errorf("want many addresses given, got %d in 5000 rounds", given)
	}
}

// chance is a search that ends by chance, as the seed has it for each address.
func chance(seed uint64) func(Record) Finding {
	return func(r Record) Finding {
		b := r.Addr.As16()
		at := rand.New(rand.NewPCG(seed, uint64(b[15])))
		return Finding{Search: [...]Search{Searching, Free, Free, Occupied}[at.IntN(4)]}
	}
}
