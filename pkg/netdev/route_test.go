// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestSyncRoutes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		netlab.Wire(t, here, "pb0123456789a", peer, "eth1")
		here.Addr(t, "eth0", "192.168.1.1/24")
		here.Addr(t, "eth0", "fd01::1/64")
		link := here.Index(t, "eth0")
		here.Exec(t, "ip", "route", "add", "10.9.0.5/32", "dev", "pb0123456789a", "proto", "80")
		here.Exec(t, "ip", "route", "add", "10.8.0.0/24", "via", "192.168.1.9")

		a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
		first := []Route{
			{Dst: netip.MustParsePrefix("10.244.1.0/24"), Via: a("192.168.1.2"), Link: link},
			{Dst: netip.MustParsePrefix("fd00:1::/64"), Via: a("fd01::2"), Link: link, MTU: 1400},
			{Dst: netip.MustParsePrefix("10.244.3.0/24"), Link: link, Src: a("192.168.1.1"), Metric: 7},
		}
		second := []Route{
			{Dst: netip.MustParsePrefix("10.244.1.0/24"), Via: a("192.168.1.3"), Link: link, MTU: 1450},
			{Dst: netip.MustParsePrefix("fd00:1::/64"), Via: a("fd01::3"), Link: link},
		}
		for _, want := range [][]Route{first, first, second, nil} {
			if err := SyncRoutes(want); err != nil {
				t.Fatal(err)
			}
			own, err := routesOf(Protocol)
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Collect(maps.Values(own))
			byDst := func(x, y Route) int { return x.Dst.Compare(y.Dst) }
			slices.SortFunc(got, byDst)
			want = slices.SortedFunc(slices.Values(want), byDst)
			if diff := cmp.Diff(want, got, cmp.Comparer(func(x, y Route) bool { return x == y })); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
		}
		left := here.Exec(t, "ip", "route")
		for _, keep := range []string{"10.9.0.5 dev pb0123456789a", "10.8.0.0/24 via 192.168.1.9"} {
			if !strings.Contains(left, keep) {
				t.Errorf("route %q is gone; left:\n%s", keep, left)
			}
		}
		bad := Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), Via: a("192.168.1.2"), Link: 999}
		err := SyncRoutes([]Route{bad, first[0]})
		if err == nil || !strings.Contains(err.Error(), "10.1.0.0/24") {
			t.Errorf("SyncRoutes with a bad link = %v, want it named", err)
		}
		if !strings.Contains(here.Exec(t, "ip", "route"), "10.244.1.0/24") {
			t.Error("the bad route stopped the good one")
		}
	})
}

var errNotYet = errors.New("not yet")

// A pod may be made between any two things that SyncRoutes does.
func TestSyncRoutesWhilePodsAreMade(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here := netlab.Open(t, "/proc/self/ns/net")
		ctx, stop := context.WithCancel(t.Context())
		synced := make(chan error)
		go func() {
			var err error
			for ctx.Err() == nil && err == nil {
				err = SyncRoutes(nil)
			}
			synced <- err
		}()
		const pods = 100
		for i := range pods {
			link, dst := fmt.Sprintf("pb%011x", i), fmt.Sprintf("10.9.0.%d/32", i)
			here.Exec(t, "ip", "link", "add", link, "up", "type", "bridge")
			here.Exec(t, "ip", "route", "add", dst, "dev", link, "proto", "80")
		}
		stop()
		if err := <-synced; err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(here.Exec(t, "ip", "route", "show", "proto", "80"), "10.9.0."); got != pods {
			t.Errorf("want the routes of %d pods, got %d", pods, got)
		}
	})
}

func TestSyncNeighbours(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		here.Addr(t, "eth0", "192.168.1.1/24")
		peer.Addr(t, "eth0", "192.168.1.2/24")
		want := Neighbour{here.Index(t, "eth0"), netip.MustParseAddr("192.168.1.2")}
		netlab.WaitFor(t, 5*time.Second, "neighbour resolved", func() error {
			macs, err := SyncNeighbours([]Neighbour{want})
			if err == nil && macs[want] != peer.MAC(t, "eth0") {
				t.Logf("so far: %v", macs)
				err = errNotYet
			}
			return err
		})
		if _, err := SyncNeighbours(nil); err != nil {
			t.Fatal(err)
		}
		if left := here.Exec(t, "ip", "neigh"); strings.Contains(left, "managed") {
			t.Errorf("managed neighbour left:\n%s", left)
		}
	})
}

func TestTunnel(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here := netlab.Open(t, "/proc/self/ns/net")
		own := []netip.Addr{netip.MustParseAddr("10.244.0.0"), netip.MustParseAddr("fd00:244::")}
		first, err := EnsureTunnel("/proc/sys", Tunnel{Port: 4789, MTU: 1450, Addrs: own})
		if err != nil {
			t.Fatal(err)
		}
		again, err := EnsureTunnel("/proc/sys", Tunnel{Port: 4789, MTU: 1400, Addrs: own})
		if err != nil || again != first {
			t.Fatalf("again: index %d, %v, want %d", again, err, first)
		}
		link := here.Exec(t, "ip", "-d", "link", "show", TunnelName)
		for _, want := range []string{"external", "NOARP", "mtu 1400", "dstport 4789"} {
			if !strings.Contains(link, want) {
				t.Errorf("link lacks %q:\n%s", want, link)
			}
		}
		own = own[1:]
		if _, err := EnsureTunnel("/proc/sys", Tunnel{Port: 4789, MTU: 1400, Addrs: own}); err != nil {
			t.Fatal(err)
		}
		if got := here.Exec(t, "ip", "-o", "addr", "show", "dev", TunnelName); strings.Contains(got, "10.244.0.0") || !strings.Contains(got, "fd00:244::/128") {
			t.Errorf("addresses: %s", got)
		}
		if other, err := EnsureTunnel("/proc/sys", Tunnel{Port: 4790, MTU: 1400, Addrs: own}); err != nil || other == first {
			t.Errorf("other port: index %d, %v, want another device", other, err)
		}
		for range 2 {
			if err := RemoveLink(TunnelName); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNICSysctlsAndLinks(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		netlab.Wire(t, here, "pb0123456789a", peer, "eth1")
		here.Addr(t, "eth0", "192.168.1.1/24")
		here.Route(t, "default", netip.MustParseAddr("192.168.1.254"), "eth0")
		here.Sysctl(t, "net/ipv4/conf/eth0/rp_filter", "1")
		for _, name := range []string{"default", "eth0", "pb0123456789a"} {
			here.Sysctl(t, "net/ipv6/conf/"+name+"/accept_ra", "1")
		}
		sysctls := Sysctls("/proc/sys")
		if err := sysctls.EnableForwarding(); err != nil {
			t.Fatal(err)
		}
		if err := sysctls.PrepareNIC("eth0"); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/eth0/accept_ra": "2",
			"net/ipv6/conf/default/accept_ra": "1", "net/ipv6/conf/pb0123456789a/accept_ra": "1",
			"net/ipv4/conf/eth0/rp_filter": "2", "net/ipv4/conf/eth0/arp_ignore": "1",
		} {
			if got := sysctls.get(key); got != want {
				t.Errorf("%s = %s, want %s", key, got, want)
			}
		}
		links, err := Links()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(links, func(l Link) bool { return l.Name == "eth0" })
		if i < 0 || !links[i].DefaultRoute || !links[i].Carrier || !links[i].OnSubnet(netip.MustParseAddr("192.168.1.77")) {
			t.Errorf("links = %+v, want eth0 with its address and default route", links)
		}
		if slices.ContainsFunc(links, func(l Link) bool { return IsPodLink(l.Name) || l.Name == "lo" }) {
			t.Errorf("links = %+v, want neither lo nor pods' links", links)
		}
	})
}

func TestIsPodLink(t *testing.T) {
	for name, want := range map[string]bool{"pb0123456789a": true, "pb-vxlan": false, "pb0123456789": false,
		"pb0123456789ab": false, "pb0123456789g": false, "eth0": false} {
		if got := IsPodLink(name); got != want {
			t.Errorf("IsPodLink(%q) = %v, want %v", name, got, want)
		}
	}
}
