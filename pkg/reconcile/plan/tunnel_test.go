// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath"
)

// A node that has no tunnel yet is spoken to natively where it can be, whatever
// the mode: nodes change it one after the other.
func TestNodeWithoutTunnel(t *testing.T) {
	in := input(t, "routing: {mode: vxlan}")
	in.Tunnel, in.Nodes[1].NoTunnel = 7, true
	in.Nodes = append(in.Nodes, Node{Name: "c", InternalIPs: addrs("10.77.0.3"), PodCIDRs: prefixes("10.244.2.0/24"), NoTunnel: true})
	n := Build(in)
	check(t, n, []string{
		kindLine("10.244.1.0/24", datapath.RouteNative) + " via 192.168.1.2 if 2 mtu 1500",
		"kernel 10.244.1.0/24 via 192.168.1.2 link 2 src 192.168.1.1",
		kindLine("10.244.2.0/24", datapath.RouteTunnel) + " via 10.77.0.3 if 7",
	})
	if !n.NeedTunnel {
		t.Error("no tunnel is wanted here")
	}
}

// What is left of a tunnel takes packets as before.
func TestTunnelThatNoWayNeeds(t *testing.T) {
	in := input(t, "routing: {mode: native}")
	in.Tunnel = 7
	n := Build(in)
	check(t, n, []string{kindLine("10.244.0.0/32", datapath.RouteSelf), kindLine("fd00:244::/128", datapath.RouteSelf)}, "kernel 10.244.1.0/24 via invalid")
	if n.NeedTunnel || !slices.Equal(n.NAT.TunnelLinks, []int{2, 3}) {
		t.Errorf("tunnel wanted: %v, open on links %v", n.NeedTunnel, n.NAT.TunnelLinks)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.244.0.0"), netip.MustParseAddr("fd00:244::")}; !slices.Equal(n.TunnelAddrs, want) {
		t.Errorf("addresses %v, want %v", n.TunnelAddrs, want)
	}
}
