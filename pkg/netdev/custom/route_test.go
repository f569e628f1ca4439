// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

func route(iface, dst, via string, metric int) Route {
	r := Route{Interface: iface, Dst: netip.MustParsePrefix(dst), Metric: metric}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// node has a NIC for each thing that a route's interface can be like.
func node() facts {
	return facts{
		links: []netdev.Link{
			{Index: 2, Name: "eth0", Up: true, Addrs: prefixes("172.31.0.10/24", "fd00:31::10/64"), Dynamic: netdev.Dynamic{IPv4: true}},
			{Index: 3, Name: "eth1", AltNames: []string{"Port3"}, Up: true, Addrs: prefixes("192.168.20.10/24", "fd00:20::10/64")},
			{Index: 4, Name: "eth2", Addrs: prefixes("10.9.0.1/24")},
			{Index: 5, Name: "eth3", Up: true, Addrs: prefixes("10.8.0.1/24", "fd00:8::1/64"), Dynamic: netdev.Dynamic{IPv6: true}},
		},
		cluster: prefixes("10.244.0.0/16"),
		foreign: []Foreign{
			{Dst: netip.MustParsePrefix("192.168.20.0/24"), Link: 3, Owner: "the interface's own subnet"},
			{Dst: netip.MustParsePrefix("10.77.0.0/16"), Metric: 100, Link: 2, Owner: "another program (protocol static)"},
		},
	}
}

func TestJudge(t *testing.T) {
	camera := Record{Route: route("eth1", "192.168.60.0/24", "192.168.20.1", 100)}
	for _, tt := range []struct {
		name    string
		records []Record
		state   State // of the last
		message string
	}{
		{"reference", []Record{{Route: route("Port3", "192.168.20.0/24", "192.168.20.1", 100)}}, Applied, "goes first"},
		{"behind a gateway", []Record{camera}, Applied, ""},
		{"IPv6", []Record{{Route: route("eth1", "fd00:60::/64", "fd00:20::1", 100)}}, Applied, ""},
		{"IPv6 link-local next hop", []Record{{Route: route("eth1", "fd00:60::/64", "fe80::1", 100)}}, Applied, ""},
		{"on the link", []Record{{Route: route("eth1", "192.168.61.0/24", "", 5)}}, Applied, ""},
		{"one address", []Record{{Route: route("eth1", "192.168.61.7/32", "192.168.20.1", 5)}}, Applied, ""},
		{"no interface", []Record{{Route: route("port9", "192.168.60.0/24", "192.168.20.1", 100)}}, Refused, "no interface port9 on this node; there are eth0, eth1, eth2, eth3"},
		{"DHCP", []Record{{Route: route("eth0", "192.168.60.0/24", "172.31.0.1", 100)}}, Refused, "dynamic IPv4 address (DHCP)"},
		{"IPv6 beside DHCP for IPv4", []Record{{Route: route("eth0", "fd00:60::/64", "fd00:31::1", 100)}}, Applied, ""},
		{"RA", []Record{{Route: route("eth3", "fd00:60::/64", "fd00:8::9", 100)}}, Refused, "dynamic IPv6 address (router advertisement or DHCPv6)"},
		{"IPv4 beside RA for IPv6", []Record{{Route: route("eth3", "192.168.60.0/24", "10.8.0.9", 100)}}, Applied, ""},
		{"next hop elsewhere", []Record{{Route: route("eth1", "192.168.60.0/24", "192.168.50.1", 100)}}, Refused, "next hop 192.168.50.1 is not on the link: eth1 has 192.168.20.10/24"},
		{"next hop is the node", []Record{{Route: route("eth1", "192.168.60.0/24", "192.168.20.10", 100)}}, Refused, "own address"},
		{"a pod range", []Record{{Route: route("eth1", "10.244.4.0/22", "192.168.20.1", 100)}}, Refused, "in the cluster's own range 10.244.0.0/16"},
		{"around a pod range", []Record{{Route: route("eth1", "10.0.0.0/8", "192.168.20.1", 100)}}, Applied, "10.244.0.0/16 in it stays the cluster's"},
		{"down", []Record{{Route: route("eth2", "192.168.60.0/24", "10.9.0.9", 100)}}, Waiting, "eth2 is down"},
		{"no address of the family", []Record{{Route: route("eth2", "fd00:60::/64", "", 100)}}, Waiting, "eth2 is down"},
		{"somebody's route", []Record{{Route: route("eth1", "10.77.0.0/16", "192.168.20.1", 100)}}, Refused, "is there already, set by another program"},
		{"beside somebody's route", []Record{{Route: route("eth1", "10.77.0.0/16", "192.168.20.1", 50)}}, Applied, ""},
		{"another metric", []Record{camera, {Route: route("eth1", "192.168.60.0/24", "192.168.20.1", 50), Object: "b"}}, Refused, "with metric 100: one destination has one custom route per interface"},
		{"another name of the interface", []Record{{Route: route("Port3", "192.168.60.0/24", "192.168.20.1", 50)}, {Route: camera.Route, Object: "b"}}, Refused, "routed over Port3 already"},
		{"another interface, same metric", []Record{camera, {Route: route("eth3", "192.168.60.0/24", "10.8.0.9", 100), Object: "b"}}, Refused, "needs two metrics"},
		{"another interface", []Record{camera, {Route: route("eth3", "192.168.60.0/24", "10.8.0.9", 200), Object: "b"}}, Applied, ""},
		{"object as given here", []Record{camera, {Route: camera.Route, Object: "b"}}, Applied, ""},
		{"two objects", []Record{{Route: camera.Route, Object: "a"}, {Route: route("eth1", "192.168.60.0/24", "192.168.20.2", 100), Object: "b"}}, Refused, "by NodeRoute a"},
		{"after a refused one", []Record{{Route: route("eth1", "192.168.60.0/24", "192.168.50.1", 100), Object: "a"}, {Route: camera.Route, Object: "b"}}, Applied, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := judge(tt.records, node())
			last := got[len(got)-1]
			if last.State != tt.state || !strings.Contains(last.Message, tt.message) || tt.message == "" && last.Message != "" {
				t.Errorf("verdict: got %s %q, want %s %q", last.State, last.Message, tt.state, tt.message)
			}
		})
	}
	onDevice := node()
	onDevice.device = true
	if got := judge([]Record{camera}, onDevice)[0]; got.State != Refused || !strings.Contains(got.Message, "device's host") {
		t.Errorf("on the device: got %+v, want it refused", got)
	}
}
