// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// setup returns this namespace with a bridge in it, another namespace, and a leg for it.
func setup(t *testing.T) (here, inside *netlab.Namespace, l Leg) {
	here, inside = netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
	here.Exec(t, "ip", "link", "add", "pb-int", "mtu", "1400", "type", "bridge")
	here.Exec(t, "ip", "link", "set", "pb-int", "up")
	here.Addr(t, "pb-int", "172.31.0.1/24")
	return here, inside, Leg{
		HostName: HostName("container", "eth0"), Network: "net-a", Bridge: "pb-int", Netns: inside.FD(), IfName: "eth0",
		MAC:    [6]byte{2, 0, 0, 0, 0, 9},
		Addrs:  []netip.Prefix{netip.MustParsePrefix("172.31.0.10/24"), netip.MustParsePrefix("fd00:31::10/64")},
		Routes: []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.31.0.1")}},
	}
}

func TestCreateCheckRemove(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		ends, err := Create(l)
		if err != nil {
			t.Fatal(err)
		}
		if ends.MAC != l.MAC || ends.HostMAC != here.MAC(t, l.HostName) || ends.MTU != 1400 {
			t.Errorf("ends: %+v", ends)
		}
		inside.Exec(t, "ping", "-c1", "-W2", "172.31.0.1")
		if routes := inside.Exec(t, "ip", "route"); !strings.Contains(routes, "default via 172.31.0.1 dev eth0") {
			t.Errorf("routes:\n%s", routes)
		}
		if err := Check(l); err != nil {
			t.Errorf("check: %v", err)
		}
		inside.Exec(t, "ip", "addr", "del", "172.31.0.10/24", "dev", "eth0")
		if err := Check(l); err == nil || !strings.Contains(err.Error(), "lost address 172.31.0.10/24") {
			t.Errorf("check without the address: %v", err)
		}
		for range 2 {
			if err := Remove(l.HostName); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		if err := Check(l); err == nil {
			t.Error("check of a removed leg: no error")
		}
	})
}

func TestCreateLeavesNothingWhenItFails(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		l.Routes = []Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("192.0.2.1")}}
		if _, err := Create(l); err == nil {
			t.Fatal("no error for an unreachable gateway")
		}
		for _, ns := range []*netlab.Namespace{here, inside} {
			if links := ns.Exec(t, "ip", "-o", "link"); strings.Contains(links, l.HostName) || strings.Contains(links, "eth0") {
				t.Errorf("left:\n%s", links)
			}
		}
		l.Bridge = "pb-ext"
		if _, err := Create(l); !errors.Is(err, ErrNoBridge) {
			t.Errorf("without a switch: got %v, want ErrNoBridge", err)
		}
	})
}

func TestRemoveOthersKeepsOtherNetworks(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, _, l := setup(t)
		l.Addrs, l.Routes = nil, nil
		for _, leg := range []struct{ id, network string }{{"kept", "net-a"}, {"stale", "net-a"}, {"other", "net-b"}} {
			l.HostName, l.Network, l.Netns = HostName(leg.id, "eth0"), leg.network, netlab.New(t).FD()
			if _, err := Create(l); err != nil {
				t.Fatal(err)
			}
		}
		if err := RemoveOthers("net-a", map[string]bool{HostName("kept", "eth0"): true}); err != nil {
			t.Fatal(err)
		}
		links := here.Exec(t, "ip", "-o", "link")
		for id, want := range map[string]bool{"kept": true, "stale": false, "other": true} {
			if got := strings.Contains(links, HostName(id, "eth0")); got != want {
				t.Errorf("leg %s: present %v, want %v", id, got, want)
			}
		}
	})
}

func TestHostNames(t *testing.T) {
	name := HostName("container", "eth0")
	if !IsHostName(name) || len(name) > 15 || name != HostName("container", "eth0") {
		t.Errorf("host name %q", name)
	}
	for _, other := range []string{HostName("container", "eth1"), HostName("other", "eth0")} {
		if other == name {
			t.Errorf("two legs are named %s", name)
		}
	}
	for _, name := range []string{"port3", "pbs", "pbsxxxxxxxxxx", "pb0123456789a"} {
		if IsHostName(name) {
			t.Errorf("%s is taken for a leg", name)
		}
	}
}
