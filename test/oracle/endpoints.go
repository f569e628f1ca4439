// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Port is one port of a Service in one family, with all endpoints that serve it
// anywhere, and the node to choose for.
type Port struct {
	Node, Zone string
	Suspect    map[string]bool // nodes that are likely dead
	Endpoints  []Endpoint
}

// Endpoint is an address and port that serves, or will, or did.
type Endpoint struct {
	Addr                        netip.AddrPort
	Node                        string
	Ready, Serving, Terminating bool
	ForNodes, ForZones          []string // hints
}

// Choice is which endpoints serve.
type Choice struct {
	Cluster []netip.AddrPort // where the traffic policy is Cluster; sorted
	Local   []netip.AddrPort // where it is Local; sorted
	Any     bool             // some node has one that serves
}

// Choose picks the endpoints. Ready ones serve; where there are none, those
// that terminate and still serve. All endpoints and the node's own are judged
// apart.
func (p Port) Choose() Choice {
	own := func(e Endpoint) bool { return e.Node == p.Node }
	all, local := usable(p.Endpoints), usable(filter(p.Endpoints, own))
	return Choice{
		Cluster: sorted(p.near(p.alive(all))),
		Local:   sorted(local),
		Any:     len(all) > 0,
	}
}

// usable returns the ready endpoints, or, without any, the terminating ones
// that still serve.
func usable(endpoints []Endpoint) []Endpoint {
	ready := filter(endpoints, func(e Endpoint) bool { return e.Ready })
	if len(ready) > 0 {
		return ready
	}
	return filter(endpoints, func(e Endpoint) bool { return e.Serving && e.Terminating })
}

// alive returns the endpoints but those of nodes that are likely dead; if none is
// left, all of them. A node never suspects itself.
func (p Port) alive(endpoints []Endpoint) []Endpoint {
	kept := filter(endpoints, func(e Endpoint) bool { return e.Node == p.Node || !p.Suspect[e.Node] })
	if len(kept) == 0 {
		return endpoints
	}
	return kept
}

// near narrows ready endpoints down by their hints: to those for this node if
// each has a hint for nodes and one is for this one; else to those for its zone
// if each has a hint for zones and one is for this one; else not at all. Within
// the mode that was found there is no falling back.
func (p Port) near(endpoints []Endpoint) []Endpoint {
	if slices.ContainsFunc(endpoints, func(e Endpoint) bool { return !e.Ready }) {
		return endpoints
	}
	hasNode := func(e Endpoint) bool { return len(e.ForNodes) > 0 }
	hasZone := func(e Endpoint) bool { return len(e.ForZones) > 0 }
	forNode := func(e Endpoint) bool { return slices.Contains(e.ForNodes, p.Node) }
	forZone := func(e Endpoint) bool { return slices.Contains(e.ForZones, p.Zone) }
	if n := filter(endpoints, forNode); len(n) > 0 && len(filter(endpoints, hasNode)) == len(endpoints) {
		return n
	}
	if n := filter(endpoints, forZone); len(n) > 0 && len(filter(endpoints, hasZone)) == len(endpoints) {
		return n
	}
	return endpoints
}

// Port collects the endpoints that serve a port of a Service in one family.
func (s *State) Port(svc *corev1.Service, port corev1.ServicePort, is4 bool) Port {
	p := Port{Node: s.Node, Suspect: s.Suspect}
	for _, n := range s.Nodes {
		if n.Name == s.Node {
			p.Zone = n.Labels[corev1.LabelTopologyZone]
		}
	}
	at := map[netip.AddrPort]int{}
	for _, slice := range s.slicesOf(svc, is4) {
		for _, e := range s.sliceEndpoints(slice, port) {
			if i, ok := at[e.Addr]; !ok {
				at[e.Addr] = len(p.Endpoints)
				p.Endpoints = append(p.Endpoints, e)
			} else if better(e, p.Endpoints[i]) {
				p.Endpoints[i] = e
			}
		}
	}
	return p
}

// better tells which of two endpoints with one address counts: it moves from
// one slice to another, or a new pod has the address of one that terminates.
func better(e, than Endpoint) bool {
	if e.Terminating != than.Terminating {
		return than.Terminating
	}
	return e.Ready && !than.Ready
}

// slicesOf returns the slices of a Service in one family, sorted by name.
func (s *State) slicesOf(svc *corev1.Service, is4 bool) []*discoveryv1.EndpointSlice {
	var own []*discoveryv1.EndpointSlice
	for _, slice := range s.Slices {
		family := slice.AddressType == discoveryv1.AddressTypeIPv4
		if slice.Namespace == svc.Namespace && slice.Labels[discoveryv1.LabelServiceName] == svc.Name && family == is4 {
			own = append(own, slice)
		}
	}
	slices.SortFunc(own, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	return own
}

// sliceEndpoints returns the endpoints of a slice for one port: the slice's port
// of the same name and protocol gives the number.
func (s *State) sliceEndpoints(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) []Endpoint {
	var all []Endpoint
	for _, number := range slice.Ports {
		if *number.Name != port.Name || *number.Protocol != port.Protocol || *number.Port == 0 {
			continue
		}
		for _, e := range slice.Endpoints {
			addr := netip.MustParseAddr(e.Addresses[0])
			if s.forbidden(addr) || addr.Is4() != (slice.AddressType == discoveryv1.AddressTypeIPv4) {
				continue
			}
			all = append(all, endpoint(e, netip.AddrPortFrom(addr, uint16(*number.Port))))
		}
	}
	return all
}

func endpoint(e discoveryv1.Endpoint, addr netip.AddrPort) Endpoint {
	is := func(condition *bool, otherwise bool) bool {
		if condition == nil {
			return otherwise
		}
		return *condition
	}
	out := Endpoint{
		Addr:        addr,
		Ready:       is(e.Conditions.Ready, true),
		Serving:     is(e.Conditions.Serving, true),
		Terminating: is(e.Conditions.Terminating, false),
	}
	if e.NodeName != nil {
		out.Node = *e.NodeName
	}
	if e.Hints != nil {
		for _, h := range e.Hints.ForNodes {
			out.ForNodes = append(out.ForNodes, h.Name)
		}
		for _, h := range e.Hints.ForZones {
			out.ForZones = append(out.ForZones, h.Name)
		}
	}
	return out
}

// forbidden tells whether no endpoint may have the address: the node itself, a
// link's neighbour, a group, or another Service.
func (s *State) forbidden(addr netip.Addr) bool {
	return addr.IsUnspecified() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() ||
		contains(s.ServiceRanges, addr) || contains(s.Pools, addr) && !s.isNode(addr)
}

func filter(endpoints []Endpoint, keep func(Endpoint) bool) []Endpoint {
	var kept []Endpoint
	for _, e := range endpoints {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// sorted returns the endpoints' addresses.
func sorted(endpoints []Endpoint) []netip.AddrPort {
	var list []netip.AddrPort
	for _, e := range endpoints {
		list = append(list, e.Addr)
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}
