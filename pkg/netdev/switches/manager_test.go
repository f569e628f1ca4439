// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// managed is a device whose port3 a network manager set up, with these commands.
func managed(t *testing.T, commands string) device {
	t.Helper()
	d := device{here: netlab.Open(t, "/proc/self/ns/net"), cameras: netlab.New(t)}
	d.here.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	netlab.Wire(t, d.here, "port3", d.cameras, "eth0")
	d.cameras.Addr(t, "eth0", "192.168.50.9/24")
	d.cameras.Addr(t, "eth0", "fd00:50::9/64")
	for line := range strings.Lines(commands) {
		words := strings.Fields(line)
		d.here.Exec(t, words[0], words[1:]...)
	}
	return d
}

// managers are the addresses and routes that each leaves on a port.
func managers() map[string]string {
	return map[string]string{
		"NetworkManager": `ip addr add 192.168.50.1/24 brd + dev port3 noprefixroute
ip route add 192.168.50.0/24 dev port3 proto kernel scope link src 192.168.50.1 metric 100
ip route add default via 192.168.50.9 dev port3 proto dhcp src 192.168.50.1 metric 100
ip addr add fd00:50::1/64 dev port3 nodad noprefixroute
ip -6 route add fd00:50::/64 dev port3 proto kernel metric 100
ip -6 route add default via fd00:50::9 dev port3 proto dhcp metric 100`,
		"systemd-networkd": `ip addr add 192.168.50.1/24 brd + dev port3 metric 1024
ip route add default via 192.168.50.9 dev port3 proto dhcp src 192.168.50.1 metric 1024
ip addr add fd00:50::1/64 dev port3 nodad metric 1024
ip -6 route add default via fd00:50::9 dev port3 proto dhcp metric 1024`,
		"both ways": `ip addr add 192.168.50.1/24 dev port3
ip route add 192.168.50.0/24 dev port3 proto kernel scope link src 192.168.50.1 metric 100
ip addr add fd00:50::1/64 dev port3 nodad
ip -6 route add fd00:50::/64 dev port3 proto kernel metric 100`,
	}
}

// The port of a device that a network manager set up has all of its addresses
// and routes before, on the bridge meanwhile, and after.
func TestManagedPort(t *testing.T) {
	for name, commands := range managers() {
		t.Run(name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				d := managed(t, commands)
				before := d.state(t)
				sync(t, declared()[1])
				for line := range strings.Lines(d.here.Exec(t, "sh", "-c", "ip route; ip -6 route")) {
					if !strings.HasPrefix(line, "fe80::/64") && !strings.Contains(line, "dev pb-ext") {
						t.Errorf("enabled: route %s", line)
					}
				}
				for _, to := range []string{"192.168.50.9", "fd00:50::9"} {
					d.here.Exec(t, "ping", "-c", "1", "-W", "3", to)
				}
				sync(t, declared()[1])
				sync(t)
				if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
					t.Errorf("the port isn't as before (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// A network manager that nobody told of the switch sets the port's addresses and
// routes again: they go to the bridge again, and come back with the port.
func TestManagerSetsThePortAgain(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		commands := managers()["NetworkManager"]
		d := managed(t, commands)
		before := d.state(t)
		sync(t, declared()[1])
		login := startSession(t, d.cameras, d.here, "192.168.50.1:22")
		for line := range strings.Lines(commands) {
			words := strings.Fields(strings.ReplaceAll(line, " add ", " replace "))
			d.here.Exec(t, words[0], words[1:]...)
		}
		sync(t, declared()[1])
		if got := d.here.Exec(t, "ip", "-o", "addr", "show", "port3", "scope", "global"); got != "" {
			t.Errorf("the port has %s", got)
		}
		for line := range strings.Lines(d.here.Exec(t, "sh", "-c", "ip route; ip -6 route")) {
			if !strings.HasPrefix(line, "fe80::/64") && !strings.Contains(line, "dev pb-ext") {
				t.Errorf("route %s", line)
			}
		}
		login.end(t, "over the manager's doing")
		sync(t)
		if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}
	})
}

// stuck adds a route that can't be moved: its gateway is on no link's network,
// and nobody says any more that it is on this link.
func (d device) stuck(t *testing.T, link string) {
	t.Helper()
	d.here.Exec(t, "ip", "route", "add", "192.0.2.1", "dev", link)
	d.here.Exec(t, "ip", "route", "add", "198.18.0.0/15", "via", "192.0.2.1", "dev", link)
	d.here.Exec(t, "ip", "route", "del", "192.0.2.1", "dev", link)
}

// A port whose routes can't all be moved is left as it was, each time.
func TestRoutesThatCannotMove(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := managed(t, managers()["NetworkManager"])
		d.stuck(t, "port3")
		show := func() []string {
			return sorted(d.here.Exec(t, "sh", "-c", "ip -o addr show port3; ip route; ip -6 route | grep -v pb-ext; ip -o link show port3 | grep -c master || true"))
		}
		before := show()
		for range 2 {
			states, err := keeper().Sync(declared()[1:])
			if err != nil {
				t.Fatal(err)
			}
			if err := states[0].Err; err == nil || !strings.Contains(err.Error(), "addresses and routes stay on port3: move route 198.18.0.0/15") {
				t.Errorf("got error %v", err)
			}
			if diff := cmp.Diff(before, show()); diff != "" {
				t.Errorf("the port isn't as before (-before +after):\n%s", diff)
			}
			if addrs := d.here.Exec(t, "ip", "-o", "addr", "show", "pb-ext", "scope", "global"); addrs != "" {
				t.Errorf("the bridge has %s", addrs)
			}
		}
	})
}

// Nor does a port leave its bridge before all routes can go back.
func TestRoutesThatCannotGoBack(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := managed(t, managers()["NetworkManager"])
		before := sorted(d.state(t))
		sync(t, declared()[1])
		d.stuck(t, "pb-ext")
		enabled := sorted(d.state(t))
		if _, err := keeper().Sync(nil); err == nil || !strings.Contains(err.Error(), "addresses and routes stay on pb-ext: move route 198.18.0.0/15") {
			t.Errorf("got error %v", err)
		}
		if diff := cmp.Diff(enabled, sorted(d.state(t))); diff != "" {
			t.Errorf("the bridge isn't as before (-before +after):\n%s", diff)
		}
		d.here.Exec(t, "ip", "route", "del", "198.18.0.0/15")
		sync(t)
		if diff := cmp.Diff(before, sorted(d.state(t))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}
	})
}
