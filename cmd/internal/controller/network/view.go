// SPDX-License-Identifier: Apache-2.0

// Package network is what the controller knows of the networks outside: from
// the reports of the nodes' agents alone, as it has no NIC of its own there.
package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// View is what the reports say at one time.
type View struct {
	silent   bool           // a node hasn't reported
	any      bool           // there are nodes
	external []netip.Prefix // addresses of external NICs
	nics     []netip.Prefix // of all NICs
	gateways []netip.Addr   // of nodes
	results  map[netip.Addr][]result
	claims   []Claim
	unseen   []Failure
	holders  map[netip.Addr][]Announcer
}

// Announcer is a node that reports that it announces an address.
type Announcer struct {
	Node   string
	Epoch  int64
	Reason string // why it took it
	Waived string // what should have kept it from it
}

// result is how a node's search for an address ended.
type result struct {
	v1alpha1.ProbeState
	node string
}

// Claim is an address of ours that another machine claims.
type Claim struct {
	Addr  netip.Addr
	MAC   string
	Node  string // that noticed it
	Since time.Time
	// Unheld: it was found before the node took the address, which it then didn't.
	Unheld bool
}

// Failure is an address that a node couldn't reach over the wire.
type Failure struct {
	Addr    netip.Addr
	By      string // the node that tried
	Message string
}

// String says who claims it, and who noticed.
func (c Claim) String() string { return by(c.MAC, c.Node) }

// Read returns what the store's reports say.
func Read(store *source.Store) View {
	v := View{results: map[netip.Addr][]result{}, holders: map[netip.Addr][]Announcer{}}
	for node := range source.All[*corev1.Node](store, source.KindNode) {
		if _, ok := source.Get[*v1alpha1.NodeNetworkState](store, source.KindNodeNetworkState, source.Key{Name: node.Name}); !ok {
			v.silent = true
		}
		v.any = true
	}
	for state := range source.All[*v1alpha1.NodeNetworkState](store, source.KindNodeNetworkState) {
		if _, ok := source.Get[*corev1.Node](store, source.KindNode, source.Key{Name: state.Name}); !ok {
			continue // a report outlives its node
		}
		v.add(state)
	}
	slices.SortFunc(v.claims, func(a, b Claim) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Node, b.Node)) })
	slices.SortFunc(v.unseen, func(a, b Failure) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.By, b.By)) })
	return v
}

func (v *View) add(state *v1alpha1.NodeNetworkState) {
	for _, nic := range state.Status.NICs {
		for _, text := range nic.Gateways {
			if addr, err := netip.ParseAddr(text); err == nil {
				v.gateways = append(v.gateways, addr)
			}
		}
		for _, text := range nic.Addresses {
			p, err := netip.ParsePrefix(text)
			if err != nil || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			v.nics = append(v.nics, p)
			if strings.Contains(nic.Role, "external") {
				v.external = append(v.external, p)
			}
		}
	}
	for _, p := range state.Status.Probes {
		if addr, err := netip.ParseAddr(p.Address); err == nil {
			v.results[addr] = append(v.results[addr], result{p, state.Name})
		}
	}
	for _, c := range state.Status.Conflicts {
		if addr, err := netip.ParseAddr(c.Address); err == nil {
			v.claims = append(v.claims, Claim{Addr: addr, MAC: c.MAC, Node: state.Name, Since: c.Since.Time})
		}
	}
	for _, a := range state.Status.Announcements {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			v.holders[addr] = append(v.holders[addr], Announcer{state.Name, a.Epoch, a.Reason, a.Waived})
		}
	}
	for _, c := range state.Status.Conditions {
		if claim, ok := unheld(state.Name, c); ok {
			v.claims = append(v.claims, claim)
		}
	}
	for _, a := range state.Status.Verified {
		if addr, err := netip.ParseAddr(a.Address); err == nil && !a.Reachable {
			v.unseen = append(v.unseen, Failure{addr, state.Name, a.Message})
		}
	}
}

// Reaches tells whether a node has an external NIC on the address's network, or
// may have one and hasn't said so yet.
func (v View) Reaches(addr netip.Addr) (is, maybe bool) {
	is = slices.ContainsFunc(v.external, func(p netip.Prefix) bool { return p.Contains(addr) })
	return is, is || v.silent
}

// Unreached tells whether there are nodes, and certainly none is on the
// address's network.
func (v View) Unreached(addr netip.Addr) bool {
	_, maybe := v.Reaches(addr)
	return v.any && !maybe
}

// Taken returns the addresses of nodes' NICs and of their gateways, and those of
// their networks that no machine can have.
func (v View) Taken() []netip.Addr {
	taken := slices.Clone(v.gateways)
	for _, p := range v.nics {
		taken = append(taken, p.Addr())
		whole := p.Masked()
		if last := lastOf(whole); p.Addr().Is4() && p.Bits() < 31 {
			taken = append(taken, whole.Addr(), last)
		} else if p.Addr().Is6() && p.Bits() < 127 {
			taken = append(taken, whole.Addr()) // of all its routers (RFC 4291, 2.6.1)
		}
	}
	slices.SortFunc(taken, netip.Addr.Compare)
	return slices.Compact(taken)
}

// Claims returns the addresses of ours that others claim, sorted.
func (v View) Claims() []Claim { return v.claims }

// Announcers returns the nodes that say that they announce an address. If there
// are several, one is dead, or the address is on its way.
func (v View) Announcers(addr netip.Addr) []Announcer { return v.holders[addr] }

// unheld reads the condition by which a node says that it doesn't take an
// address, as another machine uses it.
func unheld(node string, c metav1.Condition) (Claim, bool) {
	name, ok := strings.CutPrefix(c.Type, v1alpha1.NodeConditionConflict)
	addr, err := v1alpha1.AllocationAddr(name)
	if !ok || err != nil || c.Status != metav1.ConditionTrue {
		return Claim{}, false
	}
	_, mac, _ := strings.Cut(c.Message, " is used by ")
	mac, _, _ = strings.Cut(mac, ",")
	return Claim{Addr: addr, MAC: mac, Node: node, Since: c.LastTransitionTime.Time, Unheld: true}, true
}

// Failures returns the addresses that nodes couldn't reach, sorted.
func (v View) Failures() []Failure { return v.unseen }

// find returns what the nodes found in the search for an address that began at
// that time; nil if none has found anything. One that saw a machine counts more
// than those that saw none.
func (v View) find(addr netip.Addr, since time.Time) *result {
	var found *result
	begun := metav1.NewTime(since)
	for i, r := range v.results[addr] {
		if r.Result != v1alpha1.ProbeSearching && r.Since.Unix() == begun.Unix() && (found == nil || r.Result == v1alpha1.ProbeConflict && found.Result == v1alpha1.ProbeFree) {
			found = &v.results[addr][i]
		}
	}
	return found
}

// searching tells whether a node says that the search is on.
func (v View) searching(addr netip.Addr, since time.Time) bool {
	return slices.ContainsFunc(v.results[addr], func(r result) bool {
		return r.Result == v1alpha1.ProbeSearching && r.Since.Unix() == since.Unix()
	})
}

// Finder returns who was found to have an address in the search that began at
// that time, and which node found it.
func (v View) Finder(addr netip.Addr, since time.Time) (mac, node string) {
	if found := v.find(addr, since); found != nil {
		return found.MAC, found.node
	}
	return "", ""
}

func by(mac, node string) string { return fmt.Sprintf("%s, seen by node %s", mac, node) }

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		b[i] |= byte(1<<min(8, max(0, 8*(i+1)-p.Bits())) - 1)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
