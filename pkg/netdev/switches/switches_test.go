// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// device is a device with two ports, each with a machine at its end: one leads
// to the Internet, the other to cameras.
type device struct {
	here, internet, cameras *netlab.Namespace
}

func newDevice(t *testing.T) device {
	d := device{here: netlab.Open(t, "/proc/self/ns/net"), internet: netlab.New(t), cameras: netlab.New(t)}
	d.here.Sysctl(t, "net/ipv6/conf/all/forwarding", "1") // a device's, before and after
	netlab.Wire(t, d.here, "port2", d.internet, "eth0")
	netlab.Wire(t, d.here, "port3", d.cameras, "eth0")
	d.here.Addr(t, "port2", "198.51.100.2/24")
	d.here.Route(t, "default", netip.MustParseAddr("198.51.100.1"), "port2")
	d.internet.Addr(t, "eth0", "198.51.100.1/24")
	d.here.Addr(t, "port3", "192.168.50.1/24")
	d.here.Addr(t, "port3", "fd00:50::1/64")
	d.here.Route(t, "192.168.60.0/24", netip.MustParseAddr("192.168.50.9"), "port3")
	d.here.Route(t, "fd00:60::/64", netip.MustParseAddr("fd00:50::9"), "port3")
	d.cameras.Addr(t, "eth0", "192.168.50.9/24")
	return d
}

// leg plugs a machine with that address into one of the bridges.
func (d device) leg(t *testing.T, bridge, name, address string) *netlab.Namespace {
	t.Helper()
	ns := netlab.New(t)
	netlab.Wire(t, d.here, name, ns, "eth0")
	d.here.Exec(t, "ip", "link", "set", name, "master", bridge)
	ns.Addr(t, "eth0", address)
	return ns
}

func keeper() Keeper { return Keeper{Sysctls: "/proc/sys", Seed: "device"} }

func declared() []Switch {
	return []Switch{
		{Name: "in", Kind: Internal, Addrs: []netip.Prefix{netip.MustParsePrefix("172.31.0.1/24"), netip.MustParsePrefix("fd00:31::1/64")}},
		{Name: "ext", Kind: External, Port: "port3"},
	}
}

// sync fails the test on any error.
func sync(t *testing.T, want ...Switch) []State {
	t.Helper()
	states, err := keeper().Sync(want)
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	for _, s := range states {
		if s.Err != nil {
			t.Fatalf("sync: %v", s.Err)
		}
	}
	return states
}

// state is all that ip tells of links, addresses and routes, without what the
// kernel does by itself a moment after a link is up.
func (d device) state(t *testing.T) string {
	t.Helper()
	return d.here.Exec(t, "sh", "-c", `ip -o addr | sed 's/^[0-9]*: //; s/valid_lft.*//; s/ tentative//'; ip -o link | sed 's/^[0-9]*: //'
		{ ip route show table all; ip -6 route show table all | sed 's/expires.*//'; } | grep -v -e '^local fe80' -e '^anycast fe80'`)
}

func TestSyncRaisesSwitchesAndIsIdempotent(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		got := sync(t, declared()...)
		want := []State{
			{Name: "ext", Bridge: "pb-ext", Uplink: "port3", MTU: 1500},
			{Name: "in", Bridge: "pb-int", Uplink: "port2", MTU: 1500},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		if port, bridge := d.here.MAC(t, "port3"), d.here.MAC(t, "pb-ext"); port != bridge {
			t.Errorf("external bridge has address %x, its port %x", bridge, port)
		}
		routes := d.here.Exec(t, "sh", "-c", "ip route; ip -6 route")
		for _, route := range []string{"192.168.60.0/24 via 192.168.50.9 dev pb-ext", "fd00:60::/64 via fd00:50::9 dev pb-ext", "192.168.50.0/24 dev pb-ext"} {
			if !strings.Contains(routes, route) {
				t.Errorf("route %q is missing in:\n%s", route, routes)
			}
		}
		if strings.Contains(routes, "192.168.50.9 dev port3") {
			t.Errorf("a route over the port is left:\n%s", routes)
		}
		mac, before := d.here.MAC(t, "pb-int"), d.state(t)
		sync(t, declared()...)
		if diff := cmp.Diff(before, d.state(t)); diff != "" {
			t.Errorf("second sync changed (-before +after):\n%s", diff)
		}
		sync(t)
		sync(t, declared()...)
		if again := d.here.MAC(t, "pb-int"); again != mac {
			t.Errorf("internal bridge's address: got %x after it was made anew, want %x", again, mac)
		}
	})
}

func TestRemoveGivesThePortBack(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		before := d.state(t)
		sync(t, declared()...)
		if err := Remove(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
			t.Errorf("after removal (-before +after):\n%s", diff)
		}
		if rules := d.here.Exec(t, "nft", "list", "ruleset"); strings.Contains(rules, "patchbay") {
			t.Errorf("nftables left:\n%s", rules)
		}
	})
}

// sorted sorts lines, as the order of addresses and routes means nothing.
func sorted(text string) []string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	for i := range lines {
		for j := i; j > 0 && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return lines
}

func TestInterruptedEnslavingIsFinished(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		port, err := netlink.LinkByName("port3")
		if err != nil {
			t.Fatal(err)
		}
		bridge, err := ensureBridge(ExternalBridge, port.Attrs().HardwareAddr, 1500)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := copyAddrs(port, bridge); err != nil { // and killed here
			t.Fatal(err)
		}
		sync(t, declared()[1])
		if addrs := d.here.Exec(t, "ip", "-o", "addr", "show", "port3", "scope", "global"); addrs != "" {
			t.Errorf("the port keeps %s", addrs)
		}
		if routes := d.here.Exec(t, "ip", "route"); !strings.Contains(routes, "192.168.60.0/24 via 192.168.50.9 dev pb-ext") {
			t.Errorf("routes:\n%s", routes)
		}
	})
}

// TestTraffic: those on the internal switch go out by the port with the default
// route with its address and can't be reached from there; those on the external
// switch are on one L2 with what is behind the port.
func TestTraffic(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		sync(t, declared()...)
		inside := d.leg(t, "pb-int", "leg0", "172.31.0.10/24")
		inside.Route(t, "default", netip.MustParseAddr("172.31.0.1"), "eth0")
		outside := d.leg(t, "pb-ext", "leg1", "192.168.50.20/24")

		if from := seenFrom(t, inside, d.internet, "198.51.100.1:80"); from != "198.51.100.2" {
			t.Errorf("the Internet sees %s, want the port's address", from)
		}
		if from := seenFrom(t, outside, d.cameras, "192.168.50.9:80"); from != "192.168.50.20" {
			t.Errorf("a camera sees %s, want the leg's own address", from)
		}
		d.internet.Route(t, "172.31.0.0/24", netip.MustParseAddr("198.51.100.2"), "eth0")
		listen(t, inside, "172.31.0.10:81")
		if err := d.internet.Do(func() error { return try("172.31.0.10:81") }); err == nil {
			t.Error("the Internet reaches the internal switch")
		}
		if err := d.here.Do(func() error { return try("172.31.0.10:81") }); err != nil {
			t.Errorf("the device doesn't reach its internal switch: %v", err)
		}
	})
}

func try(address string) error {
	conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
	if err != nil {
		return err
	}
	return conn.Close()
}

func listen(t *testing.T, ns *netlab.Namespace, address string) net.Listener {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// seenFrom returns the address that a server sees a client come from.
func seenFrom(t *testing.T, client, server *netlab.Namespace, address string) string {
	t.Helper()
	l := listen(t, server, address)
	netlab.WaitFor(t, 5*time.Second, "dial "+address, func() error { return client.Do(func() error { return try(address) }) })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().String()
}

func TestRefusals(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.here.Exec(t, "ip", "link", "add", "br9", "type", "bridge")
		d.here.Exec(t, "ip", "link", "add", "port4", "type", "veth", "peer", "name", "port5")
		d.here.Exec(t, "ip", "link", "set", "port4", "master", "br9")
		d.here.Exec(t, "ip", "tuntap", "add", "wwan0", "mode", "tun")
		address := []netip.Prefix{netip.MustParsePrefix("172.31.0.1/24")}
		for _, tt := range []struct {
			name string
			in   []Switch
			want string
		}{
			{"no such port", []Switch{{Name: "e", Kind: External, Port: "port9"}}, "switch e: port port9: no such interface"},
			{"no port", []Switch{{Name: "e", Kind: External}}, "needs a port"},
			{"loopback", []Switch{{Name: "e", Kind: External, Port: "lo"}}, "not a port of the device"},
			{"a modem", []Switch{{Name: "e", Kind: External, Port: "wwan0"}}, "port wwan0 has no Ethernet (none)"},
			{"a bridge", []Switch{{Name: "e", Kind: External, Port: "br9"}}, "is a bridge"},
			{"another bridge's port", []Switch{{Name: "e", Kind: External, Port: "port4"}}, "belongs to bridge br9"},
			{"vlan out of range", []Switch{{Name: "e", Kind: External, Port: "port3", VLAN: 5000}}, "vlan 5000: an external switch has one of 1 to 4094"},
			{"vlan on an internal switch", []Switch{{Name: "i", Kind: Internal, Addrs: address, VLAN: 7}}, "vlan 7"},
			{"address on an external switch", []Switch{{Name: "e", Kind: External, Port: "port3", Addrs: address}}, "port's addresses"},
			{"internal without address", []Switch{{Name: "i", Kind: Internal}}, "needs an address"},
			{"two of a kind", []Switch{{Name: "a", Kind: Internal, Addrs: address}, {Name: "b", Kind: Internal, Addrs: address}}, "pb-int is switch a already"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				states, err := keeper().Sync(tt.in)
				if err != nil {
					t.Fatal(err)
				}
				if last := states[len(states)-1].Err; last == nil || !strings.Contains(last.Error(), tt.want) {
					t.Errorf("error: got %v, want %q", last, tt.want)
				}
			})
		}
		if err := Remove(); err != nil {
			t.Error(err)
		}
	})
}

// TestTeamedPortIsRefused needs no bond: the kernel of the tests may lack them.
func TestTeamedPortIsRefused(t *testing.T) {
	for _, kind := range []string{"bond", "team"} {
		err := checkPort(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "port7"}, LinkType: kind})
		if err == nil || !strings.Contains(err.Error(), "port port7 is a "+kind+": a teamed port") {
			t.Errorf("%s: got %v", kind, err)
		}
	}
	if err := checkPort(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "port3", EncapType: "ether"}}); err != nil {
		t.Errorf("a plain port: %v", err)
	}
}
