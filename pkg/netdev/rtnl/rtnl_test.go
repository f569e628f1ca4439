// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestDo sends several requests at once: what fails is named, the rest is done.
func TestDo(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here := netlab.Open(t, "/proc/self/ns/net")
		other := netlab.New(t)
		netlab.Wire(t, here, "eth0", other, "eth0")
		conn, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		index, found, err := conn.Index("eth0")
		if err != nil || !found || index != here.Index(t, "eth0") {
			t.Fatalf("index %d, %t, %v", index, found, err)
		}
		if _, found, err := conn.Index("eth9"); found || err != nil {
			t.Errorf("link that isn't there: %t, %v", found, err)
		}
		v4, v6 := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00::1/128")
		peer := netip.MustParseAddr("192.0.2.9")
		err = conn.Do(LinkUp(index), AddAddr(index, v4), AddAddr(index, netip.MustParsePrefix("ff02::1/128")), AddAddr(index, v6),
			SetNeighbour(index, peer, [6]byte{2, 0, 0, 0, 0, 9}), SetRoute(Route{Index: index, Dst: netip.PrefixFrom(peer, 32), Protocol: 80}),
			SetRoute(Route{Index: 999, Dst: v4}))
		if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "add address ff02::1/128") || strings.Contains(err.Error(), "192.0.2.1/32 to link 2") {
			t.Errorf("errors: %v, want those of the two that can't be done", err)
		}
		for command, want := range map[string]string{
			"ip -o addr show dev eth0": "192.0.2.1/32", "ip -6 -o addr show dev eth0": "fd00::1/128",
			"ip neigh show dev eth0": "192.0.2.9 lladdr 02:00:00:00:00:09 PERMANENT", "ip route show dev eth0": "192.0.2.9 proto 80 scope link",
		} {
			if out := here.Exec(t, strings.Fields(command)[0], strings.Fields(command)[1:]...); !strings.Contains(out, want) {
				t.Errorf("%s: %q, want %q", command, out, want)
			}
		}
		other.Exec(t, "ip", "link", "set", "eth0", "up")
		netlab.WaitFor(t, 5e9, "carrier", func() error {
			up, err := conn.OperUp(index)
			if err == nil && !up {
				err = errors.New("not yet")
			}
			return err
		})
		if _, err := conn.OperUp(999); !errors.Is(err, unix.ENODEV) {
			t.Errorf("state of no link: %v, want ENODEV", err)
		}
	})
}
