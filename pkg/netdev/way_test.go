// SPDX-License-Identifier: Apache-2.0

package netdev_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestNextHopAndGateways(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		here.Addr(t, "eth0", "192.0.2.1/24")
		here.Addr(t, "eth0", "fd00::1/64")
		link := here.Index(t, "eth0")
		hop := func(to string) string {
			on, via := netdev.NextHop(netip.MustParseAddr(to))
			if on != 0 && on != link {
				t.Errorf("%s: on link %d", to, on)
			}
			if on == 0 {
				return "none"
			}
			return via.String()
		}
		if got := hop("203.0.113.7"); got != "none" {
			t.Errorf("no route: got %s", got)
		}
		here.Route(t, "default", netip.MustParseAddr("192.0.2.9"), "eth0")
		here.Exec(t, "ip", "route", "add", "198.51.100.0/24", "nexthop", "via", "192.0.2.8", "nexthop", "via", "192.0.2.7")
		here.Exec(t, "ip", "-6", "route", "add", "fd00:7::/64", "via", "fd00::9")
		here.Exec(t, "ip", "-6", "route", "add", "fd00:8::/64", "via", "fe80::9", "dev", "eth0")
		for to, want := range map[string]string{"203.0.113.7": "192.0.2.9", "192.0.2.50": "invalid IP", "fd00:7::1": "fd00::9"} {
			if got := hop(to); got != want {
				t.Errorf("%s: got %s, want %s", to, got, want)
			}
		}
		got, err := netdev.Gateways()
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, addr := range got[link] {
			texts = append(texts, addr.String())
		}
		if diff := cmp.Diff([]string{"192.0.2.7", "192.0.2.8", "192.0.2.9", "fd00::9"}, texts); diff != "" || len(got) != 1 {
			t.Errorf("gateways (-want +got):\n%s", diff)
		}
	})
}
