// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
)

// score is a node's in the rendezvous hash for addr; the highest wins, and of
// equal ones the first name's.
func score(addr netip.Addr, node string) [sha256.Size]byte {
	a := addr.As16()
	return sha256.Sum256(append(a[:], node...))
}

// Owner chooses one of the candidates for addr by rendezvous hash: every node
// chooses the same without talking, and when a candidate comes or goes only the
// addresses that it gets or had move. Without candidates it returns "".
func Owner(addr netip.Addr, candidates []string) string {
	var owner string
	var best [sha256.Size]byte
	for _, name := range candidates {
		got := score(addr, name)
		if c := bytes.Compare(got[:], best[:]); owner == "" || c > 0 || c == 0 && name < owner {
			owner, best = name, got
		}
	}
	return owner
}

// Node is what decides whether a node can announce.
type Node struct {
	Name string
	// Excluded: labelled to be left out of load balancing.
	Excluded bool
	// Subnets of its external NICs that have carrier; nil if they aren't known.
	Subnets []netip.Prefix
	// Labels are for pools that name their nodes.
	Labels map[string]string
}

// Members tells which nodes' agents are alive.
type Members interface {
	Alive(node string) bool
}

// Static takes every node that there is an object of for alive.
type Static struct{}

// Alive returns true.
func (Static) Alive(string) bool { return true }

// Request is an address that needs an owner.
type Request struct {
	Addr netip.Addr
	// Local restricts it to the nodes of this list, if it isn't nil: those with
	// endpoints of a Service that doesn't forward between nodes.
	Local []string
	// Preferred nodes announce it while they can, best first.
	Preferred []string
	// Selects restricts it to nodes with certain labels, if it isn't nil.
	Selects func(labels map[string]string) bool
}

// Choice is who announces an address, and why.
type Choice struct {
	Owner  string // "" if nobody can
	Reason string
}

// Waived is what the choice had to set aside, "" if nothing.
func (c Choice) Waived() string {
	_, waived, _ := strings.Cut(c.Reason, though)
	return waived
}

// though joins to a reason what was set aside.
const though = "; though "

// Choose picks the owner of an address among the nodes. A condition that would
// leave no node at all is set aside and said, except that the node must have a
// NIC on the address's network: without that nobody would hear it.
func Choose(req Request, nodes []Node, members Members) Choice {
	var waived []string
	left := filter(nodes, func(n Node) bool { return n.reaches(req.Addr) })
	if len(left) == 0 {
		return Choice{Reason: "no node has an external NIC with carrier and an address in its subnet"}
	}
	if req.Selects != nil {
		if left = filter(left, func(n Node) bool { return req.Selects(n.Labels) }); len(left) == 0 {
			return Choice{Reason: "the pool's nodeSelector selects no node that has an external NIC in its subnet"}
		}
	}
	narrow := func(what string, keep func(Node) bool) {
		if kept := filter(left, keep); len(kept) > 0 {
			left = kept
		} else {
			waived = append(waived, what)
		}
	}
	narrow("no agent is alive", func(n Node) bool { return members.Alive(n.Name) })
	narrow("all nodes are excluded from load balancing", func(n Node) bool { return !n.Excluded })
	if req.Local != nil {
		narrow("no node has a ready endpoint", func(n Node) bool { return slices.Contains(req.Local, n.Name) })
	}
	for _, name := range req.Preferred {
		if slices.ContainsFunc(left, func(n Node) bool { return n.Name == name }) {
			return Choice{name, reason("preferred by the Service", waived)}
		}
	}
	names := make([]string, len(left))
	for i, n := range left {
		names[i] = n.Name
	}
	return Choice{Owner(req.Addr, names), reason(describe(names), waived)}
}

// Order lists the nodes that Choose would pick, one after the other if each
// were gone.
func Order(req Request, nodes []Node, members Members) []string {
	var ranks []rank
	for _, n := range nodes {
		if n.reaches(req.Addr) && (req.Selects == nil || req.Selects(n.Labels)) {
			ranks = append(ranks, rankOf(req, n, members))
		}
	}
	slices.SortFunc(ranks, rank.compare)
	var order []string
	for i, r := range ranks {
		if i > 0 && r.conditions[0] != 0 {
			break // nobody waits for one that isn't alive
		}
		order = append(order, r.name)
	}
	return order
}

// rank is where a node stands in an order: by each condition of Choose in turn,
// as a condition is set aside only when no node is left that meets it.
type rank struct {
	name       string
	conditions [4]int // 0 is best: alive, not excluded, local, preferred
	score      [sha256.Size]byte
}

func rankOf(req Request, n Node, members Members) rank {
	r := rank{name: n.Name, score: score(req.Addr, n.Name)}
	for i, unmet := range [...]bool{!members.Alive(n.Name), n.Excluded, req.Local != nil && !slices.Contains(req.Local, n.Name)} {
		if unmet {
			r.conditions[i] = 1
		}
	}
	if r.conditions[3] = slices.Index(req.Preferred, n.Name); r.conditions[3] < 0 {
		r.conditions[3] = len(req.Preferred)
	}
	return r
}

func (r rank) compare(o rank) int {
	return cmp.Or(slices.Compare(r.conditions[:], o.conditions[:]), bytes.Compare(o.score[:], r.score[:]), strings.Compare(r.name, o.name))
}

// reaches tells whether the node has an external NIC on the address's network.
func (n Node) reaches(addr netip.Addr) bool {
	return n.Subnets == nil || slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func describe(names []string) string {
	slices.Sort(names)
	if len(names) == 1 {
		return "the only eligible node"
	}
	return "chosen by hash among " + strings.Join(names, ", ")
}

func reason(why string, waived []string) string {
	return strings.Join(append([]string{why}, waived...), though)
}

func filter(nodes []Node, keep func(Node) bool) []Node {
	var kept []Node
	for _, n := range nodes {
		if keep(n) {
			kept = append(kept, n)
		}
	}
	return kept
}
