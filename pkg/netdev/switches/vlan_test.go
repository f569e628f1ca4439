// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// kernelHas skips the test where the kernel lacks a kind of link: then test/guest
// runs it on one that has it.
func kernelHas(t *testing.T, here *netlab.Namespace, args ...string) {
	t.Helper()
	command := append([]string{"link", "add"}, args...)
	if _, err := here.TryExec("ip", command...); err != nil {
		t.Skipf("this kernel: ip %s: %v", strings.Join(command, " "), err)
	}
}

// tagged gives the cameras a VLAN on the wire of port 3, with a camera in it.
func (d device) tagged(t *testing.T) {
	kernelHas(t, d.cameras, "link", "eth0", "name", "eth0.20", "type", "vlan", "id", "20")
	d.cameras.Up(t, "eth0.20")
	d.cameras.Addr(t, "eth0.20", "192.168.70.9/24")
}

func TestVLAN(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.tagged(t)
		login := startSession(t, d.cameras, d.here, "192.168.50.1:22")
		before := d.state(t)
		want := Switch{Name: "ext", Kind: External, Port: "port3", VLAN: 20}
		if got := sync(t, want)[0]; got.Uplink != "port3.20" {
			t.Errorf("uplink: got %s, want port3.20", got.Uplink)
		}
		inside := d.leg(t, "pb-ext", "leg1", "192.168.70.20/24")
		if from := seenFrom(t, inside, d.cameras, "192.168.70.9:80"); from != "192.168.70.20" {
			t.Errorf("the camera of the VLAN sees %s", from)
		}
		inside.Addr(t, "eth0", "192.168.50.20/24")
		listen(t, d.cameras, "192.168.50.9:80")
		if err := inside.Do(func() error { return try("192.168.50.9:80") }); err == nil {
			t.Error("a leg of the VLAN reaches the untagged network")
		}
		if err := inside.Do(func() error { return try("192.168.50.1:22") }); err == nil {
			t.Error("a leg of the VLAN reaches the port's own address")
		}
		sync(t, want)
		inside.Exec(t, "ip", "link", "del", "eth0")
		sync(t)
		if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}
		login.end(t, "untagged, all along")
	})
}

// An interface that the operator made for the VLAN is taken with its addresses, and given back.
func TestVLANOfTheOperator(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.tagged(t)
		d.here.Exec(t, "ip", "link", "add", "link", "port3", "name", "port3.20", "up", "mtu", "1400", "type", "vlan", "id", "20")
		d.here.Addr(t, "port3.20", "192.168.70.1/24")
		login := startSession(t, d.cameras, d.here, "192.168.70.1:22")
		before := d.state(t)
		want := Switch{Name: "ext", Kind: External, Port: "port3", VLAN: 20}
		if got := sync(t, want)[0].MTU; got != 1400 {
			t.Errorf("MTU: got %d, want the interface's", got)
		}
		if got := d.here.Exec(t, "ip", "-o", "-4", "addr", "show", "pb-ext"); !strings.Contains(got, "192.168.70.1/24") {
			t.Errorf("addresses of the switch: %s", got)
		}
		sync(t)
		login.end(t, "tagged, over the change")
		if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}
		d.here.Exec(t, "ip", "link", "set", "port3.20", "down")
		d.here.Exec(t, "ip", "link", "set", "port3.20", "name", "plant")
		states, err := keeper().Sync([]Switch{want})
		if err != nil || states[0].Err == nil || !strings.Contains(states[0].Err.Error(), "interface plant is in the way") {
			t.Errorf("another interface of that VLAN: %+v, %v", states, err)
		}
	})
}

// R18: neither a bonded or teamed port nor one that belongs to it, nor a VLAN of it.
func TestBondIsRefused(t *testing.T) { pairIsRefused(t, "bond") }

func TestTeamIsRefused(t *testing.T) { pairIsRefused(t, "team") }

func pairIsRefused(t *testing.T, kind string) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.here.Exec(t, "ip", "link", "add", "port4", "type", "veth", "peer", "name", "port5")
		kernelHas(t, d.here, "pair0", "type", kind)
		d.here.Exec(t, "ip", "link", "set", "port4", "master", "pair0")
		d.here.Exec(t, "ip", "link", "add", "link", "pair0", "name", "pair0.20", "type", "vlan", "id", "20")
		before := d.state(t)
		for port, want := range map[string]string{
			"pair0":    "port pair0 is a " + kind + ": a teamed port can't be a switch's uplink",
			"port4":    "port port4 belongs to " + kind + " pair0",
			"pair0.20": "port pair0 is a " + kind,
		} {
			s := Switch{Name: "ext", Kind: External, Port: port}
			states, err := keeper().Sync([]Switch{s})
			if err != nil || states[0].Err == nil || !strings.Contains(states[0].Err.Error(), want) {
				t.Errorf("%s: %+v, %v, want %q", port, states, err, want)
			}
			if err := keeper().Check(s); err == nil {
				t.Errorf("%s: Check lets it pass", port)
			}
		}
		if diff := cmp.Diff(before, d.state(t)); diff != "" {
			t.Errorf("a refusal changed (-before +after):\n%s", diff)
		}
	})
}
