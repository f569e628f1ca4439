// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// Standing is how fit a node is to answer for addresses.
type Standing struct {
	// Alive: its agent is heard, and it isn't leaving.
	Alive bool
	// Steady: it has been well for long.
	Steady bool
	// Told: what follows was told by the node; else the objects must do.
	Told bool
	// Subnets of the external NICs that work, and of each by its name.
	Subnets []netip.Prefix
	NICs    map[string][]netip.Prefix
	// Why says what is wrong with it, "" if nothing is.
	Why string
}

// On returns the subnets of the working NICs of these names; none: of all.
func (s Standing) On(names []string) []netip.Prefix {
	if len(names) == 0 {
		return s.Subnets
	}
	subnets := []netip.Prefix{}
	for _, name := range names {
		subnets = append(subnets, s.NICs[name]...)
	}
	return subnets
}

// Alive are the members that can take an address over now.
type Alive map[string]Standing

// Alive implements announce.Members.
func (a Alive) Alive(node string) bool { return a[node].Alive }

// Steady are the members that an address may be handed to in peace.
type Steady map[string]Standing

// Alive implements announce.Members.
func (s Steady) Alive(node string) bool { return s[node].Steady }

// Best is the choice's owner, if that one is steady: Choose takes one that isn't
// where none is, and an address that somebody holds had better stay then.
func (s Steady) Best(c announce.Choice) string {
	if !s[c.Owner].Steady {
		return ""
	}
	return c.Owner
}

// Standings judges the nodes, and remembers since when each has been well. It
// isn't safe for concurrent use.
type Standings struct {
	self  string
	well  map[string]time.Time
	apart map[parting]since
	next  time.Time // when a parting will have stood for long enough; zero: none is looked at
	ready bool      // the others have been judged once: who is well then may have been for long
}

// NewStandings returns a judge for a node.
func NewStandings(self string) *Standings {
	return &Standings{self: self, well: map[string]time.Time{}, apart: map[parting]since{}}
}

// Judge returns the standing of this node and of all others in the view. This
// node is steady as soon as it is well: how long it has been is the others'
// business, who have something to hand to it, and what it has since before its
// agent's start it had better keep.
func (g *Standings) Judge(v heartbeat.View, leaving bool) map[string]Standing {
	out := make(map[string]Standing, len(v.Peers)+1)
	cut := g.isolated(v)
	own := judge(g.self, v.Own, !leaving, cut)
	own.Steady = own.Why == ""
	out[g.self] = own
	for name, p := range v.Peers {
		alive := p.Agent && !p.State.Leaving
		st := Standing{Alive: alive}
		if p.Known || p.State.NICs != nil {
			st = judge(name, p.State, alive, cut)
		}
		if !p.Agent && !p.State.Leaving {
			st.Why = "its agent is not heard"
		}
		st.Steady = g.steady(name, v.At, st.Told && st.Why == "")
		out[name] = st
	}
	g.ready = g.ready || v.Settled
	return out
}

// judge judges a node by what it tells of itself.
func judge(node string, s heartbeat.State, alive bool, cut map[nicOf]bool) Standing {
	st := Standing{Alive: alive, Told: true, Subnets: []netip.Prefix{}, NICs: map[string][]netip.Prefix{}}
	var faults []string
	for _, n := range s.NICs {
		switch {
		case !n.External:
		case !n.Carrier:
			faults = append(faults, "NIC "+n.Name+" has no carrier")
		case cut[nicOf{node, n.Name}]:
			faults = append(faults, "NIC "+n.Name+" is cut off: the others hear each other on it, or the outside, and not this node")
		default:
			st.Subnets, st.NICs[n.Name] = append(st.Subnets, n.Addrs...), n.Addrs
		}
	}
	if len(st.Subnets) == 0 && faults == nil {
		faults = append(faults, "it has no external NIC with an address")
	}
	if !alive {
		faults = append(faults, "it is leaving")
	}
	st.Why = strings.Join(faults, "; ")
	return st
}

// steady notes whether a node is well, and tells whether it has been for long.
func (g *Standings) steady(node string, now time.Time, well bool) bool {
	if !well {
		delete(g.well, node)
		return false
	}
	since, ok := g.well[node]
	if !ok {
		since = now
		if !g.ready {
			since = time.Time{}
		}
		g.well[node] = since
	}
	return now.Sub(since) >= HoldDown
}

// nicOf is a NIC of a node.
type nicOf struct{ node, nic string }

// parting is two nodes' NICs on one network that don't hear each other.
type parting struct{ a, b nicOf }

// How long a parting must stand to be believed. Each node tells what it knew,
// which may be over already: what one says alone counts later.
const (
	bothSides = heartbeat.Interval
	oneSide   = 3 * heartbeat.Interval
)

// since is from when on both or one of two nodes have missed the other.
type since struct{ both, one time.Time }

// isolated finds the external NICs that carry nothing though they have carrier.
// On each network the nodes fall into groups that hear each other. One group is
// the network: where most machines other than nodes answer, else the largest;
// when that is no group's advantage, nobody is judged.
func (g *Standings) isolated(v heartbeat.View) map[nicOf]bool {
	states := map[string]heartbeat.State{g.self: v.Own}
	for name, p := range v.Peers {
		if p.Agent && p.Known {
			states[name] = p.State
		}
	}
	g.next = time.Time{}
	on := map[netip.Prefix]network{}
	for name, s := range states {
		for _, n := range s.NICs {
			for _, a := range n.Addrs {
				if p := a.Masked(); n.External && n.Carrier {
					if on[p] == nil {
						on[p] = network{}
					}
					on[p][name] = n
				}
			}
		}
	}
	cut, apart := map[nicOf]bool{}, map[parting]since{}
	for _, nics := range on {
		g.note(nics, v.At, apart)
	}
	g.apart = apart
	for _, nics := range on {
		for _, name := range g.outsiders(nics, v.At) {
			cut[nicOf{name, nics[name].Name}] = true
		}
	}
	return cut
}

// note keeps since when who misses whom.
func (g *Standings) note(nics network, now time.Time, apart map[parting]since) {
	for a := range nics {
		for b := range nics {
			if a >= b {
				continue
			}
			key := parting{nicOf{a, nics[a].Name}, nicOf{b, nics[b].Name}}
			was, is := g.apart[key], since{}
			first, second := slices.Contains(nics[a].Missed, b), slices.Contains(nics[b].Missed, a)
			switch {
			case first && second:
				is.both = cmp.Or(was.both, now)
			case first || second:
				is.one = cmp.Or(was.one, now)
			default:
				continue
			}
			apart[key] = is
		}
	}
}

// network is the NICs on it, by node.
type network map[string]heartbeat.NIC

// group is nodes that hear each other on a network.
type group struct {
	nodes   []string
	outside heartbeat.Outside // as the one of them tells that hears most
}

// outsiders are the nodes that are in no group but a lesser one.
func (g *Standings) outsiders(nics network, now time.Time) []string {
	groups := g.divide(nics, now)
	if len(groups) < 2 {
		return nil
	}
	slices.SortStableFunc(groups, compareGroups)
	if compareGroups(groups[0], groups[1]) == 0 {
		return nil
	}
	var out []string
	for _, g := range groups[1:] {
		out = append(out, g.nodes...)
	}
	return out
}

// compareGroups puts the network itself first.
func compareGroups(a, b group) int {
	return cmp.Or(cmp.Compare(b.outside, a.outside), cmp.Compare(len(b.nodes), len(a.nodes)))
}

// divide makes groups of the nodes that aren't known to miss each other.
func (g *Standings) divide(nics network, now time.Time) []group {
	left := slices.Sorted(maps.Keys(nics))
	var groups []group
	for len(left) > 0 {
		next := group{nodes: left[:1:1]}
		left = left[1:]
		for i := 0; i < len(next.nodes); i++ {
			n := next.nodes[i]
			next.outside = max(next.outside, nics[n].Outside)
			rest := left[:0:0]
			for _, o := range left {
				if g.parted(nics, n, o, now) {
					rest = append(rest, o)
				} else {
					next.nodes = append(next.nodes, o)
				}
			}
			left = rest
		}
		groups = append(groups, next)
	}
	return groups
}

// parted tells whether two nodes don't hear each other on a network, and have
// not for some time.
func (g *Standings) parted(nics network, a, b string, now time.Time) bool {
	if a > b {
		a, b = b, a
	}
	is := g.apart[parting{nicOf{a, nics[a].Name}, nicOf{b, nics[b].Name}}]
	due := is.both.Add(bothSides)
	switch {
	case is == since{}:
		return false
	case is.both.IsZero():
		due = is.one.Add(oneSide)
	}
	if now.Before(due) && (g.next.IsZero() || due.Before(g.next)) {
		g.next = due
	}
	return !now.Before(due)
}

// Next is when to judge again, though nothing changes; zero if there is no need.
func (g *Standings) Next() time.Time { return g.next }
