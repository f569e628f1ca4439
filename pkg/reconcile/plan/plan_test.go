// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func ownNIC(index int, role nic.Role, cidrs ...string) nic.NIC {
	return nic.NIC{Link: netdev.Link{Index: index, Name: fmt.Sprint("eth", index), MTU: 1500, Carrier: true, Addrs: prefixes(cidrs...)}, Role: role}
}

// input is two nodes with two NICs each on the same networks.
func input(t *testing.T, settings string) Input {
	t.Setenv("NODE_NAME", "a")
	cfg, err := config.Parse([]byte("podCIDRs: [10.244.0.0/16, \"fd00:244::/48\"]\nserviceCIDRs: [10.96.0.0/16]\n" + settings))
	if err != nil {
		t.Fatal(err)
	}
	return Input{
		Self: "a", Config: cfg, Way: func(netip.Addr) int { return 3 },
		NICs: []nic.NIC{ownNIC(2, nic.Internal, "192.168.1.1/24", "fd00:1::1/64"), ownNIC(3, nic.External, "192.0.2.1/24"), ownNIC(4, nic.Ignored, "10.9.9.9/24")},
		Nodes: []Node{
			{Name: "a", InternalIPs: addrs("192.168.1.1", "fd00:1::1"), PodCIDRs: prefixes("10.244.0.0/24", "fd00:244::/64")},
			{Name: "b", InternalIPs: addrs("192.168.1.2", "fd00:1::2"), PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:0:1::/64")},
		},
	}
}

// lines shows a plan in words.
func lines(n Network) []string {
	var out []string
	for _, r := range n.Routes {
		out = append(out, fmt.Sprintf("route %s kind %d via %s if %d mtu %d", r.Prefix, r.Kind, r.NextHop, r.IfIndex, r.MTU))
	}
	for _, r := range n.KernelRoutes {
		out = append(out, fmt.Sprintf("kernel %s via %s link %d src %s mtu %d", r.Dst, r.Via, r.Link, r.Src, r.MTU))
	}
	for _, p := range n.Peers {
		out = append(out, fmt.Sprintf("peer %s %s if %d mac %x", p.Node, p.Addr, p.IfIndex, p.MAC))
	}
	for _, w := range n.Neighbours {
		out = append(out, fmt.Sprintf("resolve %s link %d", w.Addr, w.Link))
	}
	for node, text := range n.Problems {
		out = append(out, "problem "+node+": "+text)
	}
	return out
}

func check(t *testing.T, n Network, want []string, not ...string) {
	t.Helper()
	got := lines(n)
	for _, w := range want {
		if !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, w) }) {
			t.Errorf("plan lacks %q", w)
		}
	}
	for _, w := range not {
		if slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, w) }) {
			t.Errorf("plan has %q", w)
		}
	}
	if t.Failed() {
		t.Logf("plan:\n%s", strings.Join(got, "\n"))
	}
}

func kindLine(prefix string, kind datapath.RouteKind) string {
	return fmt.Sprintf("route %s kind %d", prefix, kind)
}

func TestNative(t *testing.T) {
	in := input(t, "")
	in.MACs = map[netdev.Neighbour][6]byte{{Link: 2, Addr: netip.MustParseAddr("192.168.1.2")}: {2, 0, 0, 0, 0, 9}}
	n := Build(in)
	check(t, n, []string{
		kindLine("10.244.0.0/24", datapath.RouteLocalPods), kindLine("10.244.0.0/16", datapath.RoutePods), kindLine("10.96.0.0/16", datapath.RouteService),
		kindLine("10.244.1.0/24", datapath.RouteNative) + " via 192.168.1.2 if 2 mtu 1500",
		kindLine("fd00:244:0:1::/64", datapath.RouteNative) + " via fd00:1::2 if 2",
		kindLine("192.168.1.2/32", datapath.RouteCluster) + " via 192.168.1.2 if 2",
		"kernel 10.244.1.0/24 via 192.168.1.2 link 2 src 192.168.1.1", "kernel fd00:244:0:1::/64 via fd00:1::2 link 2 src fd00:1::1",
		"kernel 10.96.0.0/16 via 169.254.1.1 link 2 src 192.168.1.1",
		"resolve 192.168.1.2 link 2", "resolve fd00:1::2 link 2", "peer b 192.168.1.2 if 2 mac 020000000009",
	}, "peer b fd00:1::2", kindLine("10.244.1.0/24", datapath.RouteTunnel), "problem")
	if n.NeedTunnel || n.PodMTU != 1500 || n.Underlay != 2 {
		t.Errorf("tunnel %v, MTU %d, underlay %d, want none, 1500, 2", n.NeedTunnel, n.PodMTU, n.Underlay)
	}
}

func TestTunnel(t *testing.T) {
	for _, tunnel := range []int{0, 7} {
		in := input(t, "routing: {mode: vxlan}")
		in.Tunnel = tunnel
		n := Build(in)
		if !n.NeedTunnel || n.TunnelMTU != 1450 || n.PodMTU != 1450 {
			t.Errorf("tunnel %v with MTU %d, pods %d, want 1450", n.NeedTunnel, n.TunnelMTU, n.PodMTU)
		}
		if tunnel == 0 {
			check(t, n, nil, "kernel 10.244.1.0/24")
			continue
		}
		check(t, n, []string{
			kindLine("10.244.1.0/24", datapath.RouteTunnel) + " via 192.168.1.2 if 7 mtu 1450",
			"kernel 10.244.1.0/24 via invalid IP link 7 src 192.168.1.1 mtu 1450",
			kindLine("192.168.1.2/32", datapath.RouteCluster) + " via 192.168.1.2 if 2",
		})
	}
}

// TestBehindRouter: a node on another network is reached by the tunnel, the
// other stays native.
func TestBehindRouter(t *testing.T) {
	in := input(t, "")
	in.Tunnel = 7
	in.Nodes = append(in.Nodes, Node{Name: "c", InternalIPs: addrs("10.77.0.3"), PodCIDRs: prefixes("10.244.2.0/24", "fd00:244:0:2::/64")})
	in.Way = func(netip.Addr) int { return 9 }
	n := Build(in)
	if !slices.Equal(n.NAT.TunnelLinks, []int{2, 3, 9}) {
		t.Errorf("links for the tunnel %v, want the NICs and the way to the node", n.NAT.TunnelLinks)
	}
	check(t, n, []string{
		kindLine("10.244.1.0/24", datapath.RouteNative), kindLine("10.244.2.0/24", datapath.RouteTunnel) + " via 10.77.0.3 if 7",
		kindLine("fd00:244:0:2::/64", datapath.RouteTunnel) + " via 10.77.0.3 if 7", kindLine("10.77.0.3/32", datapath.RouteCluster) + " via 10.77.0.3 if 7",
		"peer c 10.77.0.3 if 9 mac 000000000000",
	}, "resolve 10.77.0.3")
	if n.PodMTU != 1500 {
		t.Errorf("pods' MTU %d, want the full 1500", n.PodMTU)
	}
	in = input(t, "routing: {mode: native}")
	in.Nodes = append(in.Nodes, Node{Name: "c", InternalIPs: addrs("10.77.0.3"), PodCIDRs: prefixes("10.244.2.0/24")})
	n = Build(in)
	check(t, n, []string{"problem c: pods 10.244.2.0/24"}, "kernel 10.244.2.0/24")
	if n.NeedTunnel {
		t.Error("mode native wants a tunnel")
	}
}

func TestReportedNICs(t *testing.T) {
	in := input(t, "")
	in.Nodes[1].NICs = []RemoteNIC{{MAC: [6]byte{2, 0, 0, 0, 0, 7}, Addrs: prefixes("192.0.2.2/24"), External: true, Carrier: true}}
	n := Build(in)
	check(t, n, []string{"peer b 192.0.2.2 if 3 mac 020000000007", kindLine("192.0.2.2/32", datapath.RouteCluster) + " via invalid IP if 0"})
	if slices.Contains(n.NAT.Exclude, netip.MustParsePrefix("192.0.2.2/32")) {
		t.Error("pods show their own address on the external network")
	}
}

func TestNAT(t *testing.T) {
	c := Build(input(t, "masquerade: {exclude: [192.168.20.0/24]}")).NAT
	for _, p := range prefixes("10.96.0.0/16", "192.168.20.0/24", "192.168.1.2/32", "fd00:1::2/128") {
		if !slices.Contains(c.Exclude, p) {
			t.Errorf("exclude %v lacks %s", c.Exclude, p)
		}
	}
	if !slices.Equal(c.Links, []int{2, 3}) || c.TunnelLinks != nil {
		t.Errorf("links %v, for the tunnel %v, want the NICs of ours, and none without a tunnel", c.Links, c.TunnelLinks)
	}
	if len(c.NICs) != 2 || c.NICs[0].Addrs[0] != netip.MustParseAddr("192.168.1.1") || !c.Masquerade {
		t.Errorf("NICs %v, masquerade %v", c.NICs, c.Masquerade)
	}
}

func TestAddresses(t *testing.T) {
	lan := announce.Node{Subnets: prefixes("192.0.2.0/24")}
	a, b := lan, lan
	a.Name, b.Name = "a", "b"
	pool := Pool{Name: "lan", Contains: netip.MustParsePrefix("192.0.2.0/24").Contains}
	services := []Balanced{
		{Name: "d/web", Addrs: addrs("192.0.2.50")}, {Name: "d/web2", Addrs: addrs("192.0.2.50"), Preferred: []string{"a"}},
		{Name: "d/local", Addrs: addrs("192.0.2.51"), Local: true, Nodes: []string{"b"}}, {Name: "d/foreign", Addrs: addrs("203.0.113.1")},
	}
	got := Wishes(services, []Pool{pool})
	if len(got) != 2 {
		t.Fatalf("wishes %+v, want the two of the pool", got)
	}
	nodes, nics := []announce.Node{a, b}, input(t, "").NICs
	choose := func(w Wish) string { return announce.Choose(w.Request, nodes, announce.Static{}).Owner }
	if w := got[0]; choose(w) != "a" || w.Pool != "lan" || !slices.Equal(w.Services, []string{"d/web", "d/web2"}) {
		t.Errorf("shared address: %+v, want a's, of both Services", w)
	}
	if w := got[1]; choose(w) != "b" {
		t.Errorf("local address: %+v, want b's", w)
	}
	if on, ok := got[0].NIC(nics); !ok || on.Name != "eth3" {
		t.Errorf("NIC %+v, want eth3", on)
	}
	for _, named := range []string{"eth3", "eth0,eth3", "eth9"} {
		w := got[0]
		w.NICs = strings.Split(named, ",")
		if on, ok := w.NIC(nics); ok != (named != "eth9") || ok && on.Name != "eth3" {
			t.Errorf("announced on %s only: %+v, want eth3 if that is named", named, on)
		}
	}
	nics[1].Carrier = false
	if on, ok := got[0].NIC(nics); ok {
		t.Errorf("without carrier: %+v, want none", on)
	}
}

func TestConflist(t *testing.T) {
	var ranges []PodRange
	for _, p := range prefixes("10.244.0.0/24", "fd00:244::/120", "10.244.9.0/26") {
		ranges = append(ranges, PodRange{Prefix: p, Exclude: prefixes("10.244.9.7/32", "10.99.0.0/16")})
	}
	raw, err := Conflist(ranges, 1450, config.Config{Paths: config.Paths{Run: "/run/patchbay"}})
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	var want any
	text := `{"cniVersion":"1.1.0","name":"patchbay","plugins":[{"type":"patchbay","capabilities":{"portMappings":true},"mtu":1450,"agentSocket":"/run/patchbay/agent.sock",
	 "ipam":{"type":"patchbay-ipam","leases":"/run/patchbay/leases.db","coolDown":"1m0s",
	  "ranges":[[{"subnet":"10.244.0.0/24"},{"subnet":"10.244.9.0/26","exclude":["10.244.9.7/32"]}],[{"subnet":"fd00:244::/120"}]]}}]}`
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conflist (-want +got):\n%s", diff)
	}
	if raw, err := Conflist(nil, 1500, config.Config{}); raw != nil || err != nil {
		t.Errorf("without ranges: %s, %v, want nothing", raw, err)
	}
}
