// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/patchbay-net/patchbay/ipam"
)

// agent is a node as it lives: it acts on the blocks that it has seen, gives
// addresses out of the active ones, and what it says arrives late or never.
type agent struct {
	seen   map[netip.Prefix]Block
	given  map[netip.Addr]bool
	report map[netip.Prefix]Use
	wants  []Want
}

// act gives or frees an address.
func (a *agent) act(r *rand.Rand) {
	if r.IntN(3) == 0 {
		for addr := range a.given {
			delete(a.given, addr)
			return
		}
	}
	prefixes := slices.SortedFunc(maps.Keys(a.seen), func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	for _, p := range prefixes {
		all := ipam.PrefixRange(p)
		for at := all.First; !a.seen[p].Draining && all.Contains(at); at = at.Next() {
			if !a.given[at] {
				a.given[at] = true
				return
			}
		}
	}
}

// say makes a report of what is.
func (a *agent) say() {
	a.report = map[netip.Prefix]Use{}
	for p, b := range a.seen {
		used := int64(0)
		for addr := range a.given {
			if p.Contains(addr) {
				used++
			}
		}
		a.report[p] = Use{Revision: b.Revision, Used: used, Free: capacity(p) - used}
	}
}

// TestLives lets nodes come, work and want, with a controller that is killed
// between its writes and sees late reports: no address is ever two nodes', none
// that is given out loses its block, and what nobody uses comes back.
func TestLives(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { live(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func live(t *testing.T, r *rand.Rand) {
	pools := []Pool{pool("p", "10.0.0.0/24 29", "fd00::/120 126"), pool("q", "10.1.0.0/27 30")}
	pools[1].OnRequest = true
	var durable []Block
	agents := map[string]*agent{}
	for i := range 4 {
		agents[fmt.Sprint("n", i)] = &agent{seen: map[netip.Prefix]Block{}, given: map[netip.Addr]bool{}}
	}
	input := func() Input {
		in := Input{Pools: pools, Blocks: durable}
		for name, a := range agents {
			in.Nodes = append(in.Nodes, Node{Name: name, Uses: a.report, Wants: a.wants})
		}
		return in
	}
	// write makes the first few changes of a plan durable.
	write := func(result Result, most int) {
		for _, b := range result.Change {
			if i := slices.IndexFunc(durable, func(o Block) bool { return o.Prefix == b.Prefix }); most > 0 {
				durable[i] = b
				most--
			}
		}
		for _, b := range result.Create {
			if most > 0 {
				durable = append(durable, b)
				most--
			}
		}
		for _, b := range result.Remove {
			if most > 0 {
				durable = slices.DeleteFunc(durable, func(o Block) bool { return o.Prefix == b.Prefix })
				most--
			}
		}
	}
	step := func(name string, a *agent) {
		switch r.IntN(4) {
		case 0: // it sees what there is
			a.seen = map[netip.Prefix]Block{}
			for _, b := range durable {
				if b.Node == name {
					a.seen[b.Prefix] = b
				}
			}
		case 1:
			a.say()
		case 2:
			a.act(r)
		case 3:
			a.wants = nil
			if r.IntN(2) == 0 {
				last := netip.AddrFrom4([4]byte{10, 1, 0, byte(r.IntN(32))})
				a.wants = []Want{{Pool: "q", Count: 1}, {Addr: last, Count: 1}}
			}
		}
	}
	for round := range 2000 {
		if r.IntN(40) == 0 {
			pools[0].Disabled = !pools[0].Disabled
		}
		for name, a := range agents {
			step(name, a)
		}
		write(Plan(input()), r.IntN(4))
		check(t, round, durable, agents)
	}
	pools[0].Disabled = false
	settle(t, agents, &durable, input, write)
}

func check(t *testing.T, round int, durable []Block, agents map[string]*agent) {
	t.Helper()
	for i, a := range durable {
		for _, b := range durable[:i] {
			if a.Prefix.Overlaps(b.Prefix) {
				t.Fatalf("round %d: blocks %v and %v overlap", round, a, b)
			}
		}
	}
	owner := map[netip.Addr]string{}
	for name, a := range agents {
		for addr := range a.given {
			if owner[addr] != "" {
				t.Fatalf("round %d: %s is given by %s and %s", round, addr, owner[addr], name)
			}
			owner[addr] = name
			if !slices.ContainsFunc(durable, func(b Block) bool { return b.Node == name && b.Prefix.Contains(addr) }) {
				t.Fatalf("round %d: %s of %s is in no block of its own", round, addr, name)
			}
		}
	}
}

// settle ends all that is given, lets everybody see everything, and expects one
// block of each family on every node.
func settle(t *testing.T, agents map[string]*agent, durable *[]Block, input func() Input, write func(Result, int)) {
	t.Helper()
	for range 200 {
		for name, a := range agents {
			clear(a.given)
			a.wants = nil
			a.seen = map[netip.Prefix]Block{}
			for _, b := range *durable {
				if b.Node == name {
					a.seen[b.Prefix] = b
				}
			}
			a.say()
		}
		write(Plan(input()), 1000)
	}
	count := map[string]int{}
	for _, b := range *durable {
		count[b.Node]++
	}
	for name := range agents {
		if count[name] != 2 {
			t.Errorf("%s keeps %d blocks, want one of each family: %v", name, count[name], *durable)
		}
	}
}
