// SPDX-License-Identifier: Apache-2.0

package search

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// sync brings the searches to what the objects say.
func (s *Searches) sync(_ context.Context, v parts.Objects) error {
	known, nodes := lookAround(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ours = known
	s.subnets, s.announced = map[int][]netip.Prefix{}, s.held(v)
	for _, n := range v.NICs {
		s.subnets[n.Index] = n.Addrs
	}
	seen := map[netip.Addr]bool{}
	for obj := range source.All[*v1alpha1.IPAllocation](v.Store, source.KindIPAllocation) {
		addr, err := netip.ParseAddr(obj.Spec.Address)
		if err != nil {
			continue // the source says so
		}
		switch obj.Spec.State {
		case v1alpha1.AllocationReserved, v1alpha1.AllocationConflicted:
			seen[addr] = s.want(v, obj, addr, nodes)
		case v1alpha1.AllocationActive:
			if t := s.tasks[addr]; t != nil && t.reserved && t.result != nil && t.result.Result == v1alpha1.ProbeFree {
				seen[addr] = true // guarded until the datapath answers
				if t.given.IsZero() {
					t.given = time.Now()
				}
			}
		}
	}
	for addr, t := range s.tasks {
		if !seen[addr] {
			s.drop(addr, t)
		}
	}
	s.guard()
	return nil
}

// want has an address searched for, if that is this node's to do, and returns
// whether it is.
func (s *Searches) want(v parts.Objects, obj *v1alpha1.IPAllocation, addr netip.Addr, nodes []announce.Node) bool {
	on, ok := external(v.NICs, addr)
	if !ok {
		return false
	}
	rank := s.rank(v, obj, addr, nodes)
	if rank < 0 {
		return false
	}
	reserved := obj.Spec.State == v1alpha1.AllocationReserved
	if t := s.tasks[addr]; t != nil {
		if t.since.Equal(obj.Spec.Since.Time) && t.Link == on.Index {
			t.reserved = reserved
			return t.begun || !answered(v, obj)
		}
		s.drop(addr, t)
	}
	if answered(v, obj) && rank > 0 {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{
		Target: probe.Target{Addr: addr, Link: on.Index, Subnets: on.Addrs}, since: obj.Spec.Since.Time,
		delay: time.Duration(rank) * stagger, ctx: ctx, cancel: cancel, reserved: reserved, occupied: !reserved,
	}
	s.tasks[addr] = t
	s.enqueue(t)
	return true
}

// rank returns the how-manieth this node is to search for an address; -1 if it
// can't.
func (s *Searches) rank(v parts.Objects, obj *v1alpha1.IPAllocation, addr netip.Addr, nodes []announce.Node) int {
	selects := func(map[string]string) bool { return true }
	if pool, ok := source.Get[*v1alpha1.IPPool](v.Store, source.KindIPPool, source.Key{Name: obj.Spec.Pool}); ok && pool.Spec.NodeSelector != nil {
		selects = pool.Spec.NodeSelector.Matches
	}
	var first, last []string // those labelled to be left out come last
	for _, n := range nodes {
		switch {
		case !selects(n.Labels) || !slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }):
		case n.Excluded || s.Alive != nil && n.Name != v.Node && !s.Alive(n.Name):
			last = append(last, n.Name)
		default:
			first = append(first, n.Name)
		}
	}
	rank := 0
	for _, names := range [][]string{first, last} {
		for len(names) > 0 {
			owner := announce.Owner(addr, names)
			if owner == v.Node {
				return rank
			}
			names = slices.DeleteFunc(names, func(n string) bool { return n == owner })
			rank++
		}
	}
	return -1
}

// answered tells whether another node has the result of a search.
func answered(v parts.Objects, obj *v1alpha1.IPAllocation) bool {
	for state := range source.All[*v1alpha1.NodeNetworkState](v.Store, source.KindNodeNetworkState) {
		if state.Name == v.Node {
			continue
		}
		for _, p := range state.Status.Probes {
			if p.Result != v1alpha1.ProbeSearching && p.Address == obj.Spec.Address && p.Since.Unix() == obj.Spec.Since.Unix() {
				return true
			}
		}
	}
	return false
}

// lookAround returns the cluster's MACs, and the nodes with what decides who
// searches.
func lookAround(v parts.Objects) (ours map[[6]byte]bool, nodes []announce.Node) {
	ours = map[[6]byte]bool{}
	for _, n := range v.NICs {
		ours[n.MAC] = true
	}
	for obj := range source.All[*corev1.Node](v.Store, source.KindNode) {
		_, excluded := obj.Labels[corev1.LabelNodeExcludeBalancers]
		node := announce.Node{Name: obj.Name, Excluded: excluded, Labels: obj.Labels}
		if obj.Name == v.Node {
			for _, n := range v.NICs {
				if n.Role&nic.External != 0 && n.Carrier {
					node.Subnets = append(node.Subnets, n.Addrs...)
				}
			}
		} else if state, ok := source.Get[*v1alpha1.NodeNetworkState](v.Store, source.KindNodeNetworkState, source.Key{Name: obj.Name}); ok {
			for _, n := range plan.RemoteNICs(state) {
				ours[n.MAC] = true
				if n.External && n.Carrier {
					node.Subnets = append(node.Subnets, n.Addrs...)
				}
			}
		}
		nodes = append(nodes, node)
	}
	delete(ours, [6]byte{})
	return ours, nodes
}

// external returns the external NIC on whose network an address is.
func external(nics []nic.NIC, addr netip.Addr) (nic.NIC, bool) {
	for _, n := range nics {
		if n.Role&nic.External != 0 && n.Carrier && n.OnSubnet(addr) {
			return n, true
		}
	}
	return nic.NIC{}, false
}

// held returns what this node announces.
func (s *Searches) held(v parts.Objects) []probe.Guard {
	if s.Held == nil {
		return announcedBy(v)
	}
	var guards []probe.Guard
	for _, c := range s.Held() {
		guards = append(guards, probe.Guard{Addr: c.Addr, Link: c.Link, Announced: true})
	}
	return guards
}

// announcedBy returns what the node says that it announces.
func announcedBy(v parts.Objects) []probe.Guard {
	state, ok := source.Get[*v1alpha1.NodeNetworkState](v.Store, source.KindNodeNetworkState, source.Key{Name: v.Node})
	if !ok {
		return nil
	}
	var guards []probe.Guard
	for _, a := range state.Status.Announcements {
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		for _, name := range a.Interfaces {
			if i := slices.IndexFunc(v.NICs, func(n nic.NIC) bool { return n.Name == name }); i >= 0 {
				guards = append(guards, probe.Guard{Addr: addr, Link: v.NICs[i].Index, Announced: true})
			}
		}
	}
	return guards
}
