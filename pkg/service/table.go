// SPDX-License-Identifier: Apache-2.0

package service

import (
	"maps"
	"slices"
)

// Table is Build for Services that change one at a time: what didn't change is
// not computed again. It keeps what it is given; the zero value is ready, for a
// node without a name. Not safe for concurrent use.
type Table struct {
	node     NodeInfo
	roles    NICRoles
	suspect  map[string]bool
	services map[Name]member
	changed  map[Name]bool
	claims   []Entry // of all Services, sorted, those that lose a clash too
	entries  []Entry
}

type member struct {
	svc       Service
	endpoints []Endpoint
}

// SetNode tells for which node, and which NICs accept NodePorts of Services
// that name none. Another than before makes everything be computed again.
func (t *Table) SetNode(node NodeInfo, nodePortNICs NICRoles) {
	if t.node.equal(node) && t.roles == nodePortNICs {
		return
	}
	t.node, t.roles = node, nodePortNICs
	t.node.Addrs, t.node.Others = slices.Clone(node.Addrs), slices.Clone(node.Others)
	t.claims = nil
	for name := range t.services {
		t.mark(name)
	}
}

func (n NodeInfo) equal(o NodeInfo) bool {
	return n.Name == o.Name && n.Zone == o.Zone && slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.Others, o.Others)
}

// SetSuspect tells which nodes are likely dead (Input.Suspect). Services with
// endpoints on a node that became suspect, or is no longer, are computed again.
func (t *Table) SetSuspect(nodes map[string]bool) {
	differs := func(node string) bool { return t.suspect[node] != nodes[node] }
	for name, m := range t.services {
		if slices.ContainsFunc(m.endpoints, func(ep Endpoint) bool { return differs(ep.Node) }) {
			t.mark(name)
		}
	}
	t.suspect = maps.Clone(nodes)
}

// Set adds a Service with its endpoints, or replaces it.
func (t *Table) Set(svc Service, endpoints []Endpoint) {
	if t.services == nil {
		t.services = map[Name]member{}
	}
	t.services[svc.ID()] = member{svc, endpoints}
	t.mark(svc.ID())
}

// Delete takes a Service out, if it is there.
func (t *Table) Delete(name Name) {
	if _, ok := t.services[name]; ok {
		delete(t.services, name)
		t.mark(name)
	}
}

func (t *Table) mark(name Name) {
	if t.changed == nil {
		t.changed = map[Name]bool{}
	}
	t.changed[name] = true
}

// Entries returns what Build returns for all Services of the table. Entries of
// Services that didn't change share their slices with those returned before;
// the caller must not change them.
func (t *Table) Entries() []Entry {
	if len(t.changed) == 0 {
		return t.entries
	}
	in := Input{Node: t.node, NodePortNICs: t.roles, Suspect: t.suspect, Endpoints: map[Name][]Endpoint{}}
	var fresh []Entry
	for name := range t.changed {
		if m, ok := t.services[name]; ok {
			in.Endpoints[name] = m.endpoints
			fresh = appendService(fresh, in, m.svc)
		}
	}
	slices.SortFunc(fresh, compareEntries)
	t.claims = t.merge(fresh)
	t.entries = winners(t.claims)
	clear(t.changed)
	return t.entries
}

// merge returns the claims with those of changed Services replaced.
func (t *Table) merge(fresh []Entry) []Entry {
	merged := make([]Entry, 0, len(t.claims)+len(fresh))
	for i := range t.claims {
		old := &t.claims[i]
		if t.changed[Name{old.Port.Namespace, old.Port.Name}] {
			continue
		}
		for len(fresh) > 0 && compareEntries(fresh[0], *old) < 0 {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
		merged = append(merged, *old)
	}
	return append(merged, fresh...)
}

// winners returns the first of the sorted claims to each frontend: the claims
// themselves where nothing clashes.
func winners(claims []Entry) []Entry {
	clash := func(i int) bool { return i > 0 && claims[i].Frontend == claims[i-1].Frontend }
	first := 0
	for first < len(claims) && !clash(first) {
		first++
	}
	if first == len(claims) {
		return claims
	}
	entries := slices.Clone(claims[:first])
	for i := first; i < len(claims); i++ {
		if !clash(i) {
			entries = append(entries, claims[i])
		}
	}
	return entries
}
