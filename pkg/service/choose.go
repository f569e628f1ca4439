// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"net/netip"
	"slices"
)

// choice is which endpoints of one family serve one port of a Service.
type choice struct {
	cluster []Backend        // for traffic policy Cluster
	local   []Backend        // for traffic policy Local
	any     bool             // whether any node has a usable one
	serving []netip.AddrPort // for UDP: all that serve, of any node; sorted
}

// choose picks the backends of a port, per family: ready endpoints, or where
// there are none, those that terminate but still serve. The sets for policy
// Cluster and Local are judged apart; topology hints count for Cluster only.
// Endpoints of suspect nodes are left out while others remain, before hints are
// looked at: those of a living node elsewhere are better than a dead one's near.
func choose(in Input, port Port, endpoints []Endpoint) (v4, v6 choice) {
	var own4, own6 []*Endpoint
	for i := range endpoints {
		switch ep := &endpoints[i]; {
		case ep.PortName != port.Name || ep.Protocol != port.Protocol:
		case ep.Addr.Is4():
			own4 = append(own4, ep)
		case ep.Addr.Is6():
			own6 = append(own6, ep)
		}
	}
	v4, v6 = chooseFamily(in, own4), chooseFamily(in, own6)
	if port.Protocol == UDP {
		v4.serving, v6.serving = serving(own4), serving(own6)
	}
	return v4, v6
}

// serving returns the endpoints that a flow may stay with, though policies,
// hints or termination may keep new ones away.
func serving(endpoints []*Endpoint) []netip.AddrPort {
	var list []netip.AddrPort
	for _, ep := range endpoints {
		if ep.Ready || ep.Serving {
			list = append(list, netip.AddrPortFrom(ep.Addr, ep.Port))
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return slices.Compact(list)
}

func chooseFamily(in Input, endpoints []*Endpoint) choice {
	node := in.Node
	if len(endpoints) == 0 {
		return choice{}
	}
	usable := usableOf(endpoints)
	if len(usable) == 0 {
		return choice{}
	}
	cluster := in.unsuspected(usable)
	if usable[0].Ready {
		cluster = preferred(node, cluster)
	}
	local := usableOf(where(endpoints, node.runs))
	return choice{
		cluster: backends(node, cluster),
		local:   backends(node, local),
		any:     true,
	}
}

// usableOf returns the ready endpoints, or without any, the serving and
// terminating ones.
func usableOf(endpoints []*Endpoint) []*Endpoint {
	if ready := where(endpoints, func(ep *Endpoint) bool { return ep.Ready }); len(ready) > 0 {
		return ready
	}
	return where(endpoints, func(ep *Endpoint) bool { return ep.Serving && ep.Terminating })
}

// unsuspected returns the endpoints whose nodes are not suspect: all if none is.
func (in Input) unsuspected(endpoints []*Endpoint) []*Endpoint {
	if len(in.Suspect) == 0 {
		return endpoints
	}
	alive := func(ep *Endpoint) bool { return ep.Node == in.Node.Name || !in.Suspect[ep.Node] }
	if kept := where(endpoints, alive); len(kept) > 0 {
		return kept
	}
	return endpoints
}

// preferred narrows ready endpoints by topology: to this node's if all carry
// node hints and one names it, else to this zone's if all carry zone hints and
// one names it, else not at all.
func preferred(node NodeInfo, ready []*Endpoint) []*Endpoint {
	nodeHints := func(ep *Endpoint) []string { return ep.NodeHints }
	zoneHints := func(ep *Endpoint) []string { return ep.ZoneHints }
	if near := hinted(ready, nodeHints, node.Name); near != nil {
		return near
	}
	if near := hinted(ready, zoneHints, node.Zone); near != nil {
		return near
	}
	return ready
}

// hinted returns the endpoints whose hints name place, or nil if one has no
// hints at all or none names it.
func hinted(endpoints []*Endpoint, hints func(*Endpoint) []string, place string) []*Endpoint {
	if place == "" || slices.ContainsFunc(endpoints, func(ep *Endpoint) bool { return len(hints(ep)) == 0 }) {
		return nil
	}
	return where(endpoints, func(ep *Endpoint) bool { return slices.Contains(hints(ep), place) })
}

// runs tells whether ep runs on the node.
func (n NodeInfo) runs(ep *Endpoint) bool { return n.Name != "" && ep.Node == n.Name }

// where returns the endpoints that keep wants: the same slice if all.
func where(endpoints []*Endpoint, keep func(*Endpoint) bool) []*Endpoint {
	if !slices.ContainsFunc(endpoints, func(ep *Endpoint) bool { return !keep(ep) }) {
		return endpoints
	}
	var kept []*Endpoint
	for _, ep := range endpoints {
		if keep(ep) {
			kept = append(kept, ep)
		}
	}
	return kept
}

// backends returns the endpoints as backends: sorted, each address and port
// once. Of two that name the same address the node's own counts.
func backends(node NodeInfo, endpoints []*Endpoint) []Backend {
	if len(endpoints) == 0 {
		return nil
	}
	list := make([]Backend, 0, len(endpoints))
	for _, ep := range endpoints {
		list = append(list, Backend{
			Addr:  netip.AddrPortFrom(ep.Addr, ep.Port),
			Node:  ep.Node,
			Local: node.runs(ep),
		})
	}
	slices.SortFunc(list, compareBackends)
	return slices.CompactFunc(list, func(a, b Backend) bool { return a.Addr == b.Addr })
}

func compareBackends(a, b Backend) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	if a.Local != b.Local {
		if a.Local {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Node, b.Node)
}
