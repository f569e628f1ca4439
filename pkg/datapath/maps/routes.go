// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// RouteKind is what a prefix is to this node.
type RouteKind uint8

// The kinds of routes.
const (
	RouteLocalPods    = RouteKind(objects.MapRouteKindROUTE_LOCAL_PODS)    // pods of this node
	RouteNative       = RouteKind(objects.MapRouteKindROUTE_NATIVE)        // a remote node's pods, NextHop on IfIndex
	RouteTunnel       = RouteKind(objects.MapRouteKindROUTE_TUNNEL)        // a remote node's pods, tunnel to NextHop
	RouteService      = RouteKind(objects.MapRouteKindROUTE_SERVICE)       // a Service range
	RouteCluster      = RouteKind(objects.MapRouteKindROUTE_CLUSTER)       // another node's own address
	RouteUnmasquerade = RouteKind(objects.MapRouteKindROUTE_UNMASQUERADED) // outside, but told pods' own addresses
	RouteSelf         = RouteKind(objects.MapRouteKindROUTE_SELF)          // this node's own address; SetNIC makes these
	RoutePods         = RouteKind(objects.MapRouteKindROUTE_PODS)          // the cluster's pod ranges, where no other route is
)

// Route is one prefix.
type Route struct {
	Prefix  netip.Prefix
	Kind    RouteKind
	Node    string     // for messages only
	NextHop netip.Addr // RouteNative, RouteTunnel, RouteCluster on our L2
	IfIndex int        // RouteNative, RouteCluster on our L2
	MTU     int        // largest IP packet that goes through; 0: not known
}

// Routes owns the map routes.
type Routes struct{ Map *ebpf.Map }

// Set makes the map hold exactly routes.
func (m Routes) Set(routes []Route) error {
	want := make(map[objects.MapRouteKey]objects.MapRoute, len(routes))
	for _, r := range routes {
		if !r.Prefix.IsValid() {
			return fmt.Errorf("route of node %q: invalid prefix", r.Node)
		}
		p := r.Prefix.Masked()
		key := objects.MapRouteKey{Prefixlen: objects.Bits(p), Addr: objects.Addr(p.Addr()).B}
		want[key] = objects.MapRoute{
			Hop: objects.Addr(r.NextHop), Ifindex: uint32(r.IfIndex), Mtu: uint32(r.MTU), Kind: uint8(r.Kind),
		}
	}
	if err := sync(m.Map, want, mostSpecific); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	return nil
}

// List returns all routes, sorted by prefix, without nodes' names.
func (m Routes) List() ([]Route, error) {
	entries, err := read[objects.MapRouteKey, objects.MapRoute](m.Map)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var all []Route
	for key, value := range entries {
		all = append(all, Route{
			Prefix: objects.Prefix(key.Addr, key.Prefixlen), Kind: RouteKind(value.Kind),
			NextHop: value.Hop.Netip(), IfIndex: int(value.Ifindex), MTU: int(value.Mtu),
		})
	}
	slices.SortFunc(all, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	return all, nil
}

func mostSpecific(a, b objects.MapRouteKey) int {
	return cmp.Or(cmp.Compare(b.Prefixlen, a.Prefixlen), bytes.Compare(a.Addr[:], b.Addr[:]))
}
