// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestSyncGroups(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		link := here.Index(t, "eth0")
		one, two := netip.MustParseAddr("fd00::aa:1234"), netip.MustParseAddr("fd00::bb:5678")
		groups := func() string { return here.Exec(t, "ip", "maddress", "show", "dev", "eth0") }
		steps := []struct {
			addrs    []netip.Addr
			has, not string
		}{
			{[]netip.Addr{one, netip.MustParseAddr("192.0.2.1")}, "ff02::1:ffaa:1234", "ff02::1:ffbb:5678"},
			{[]netip.Addr{one, two}, "ff02::1:ffbb:5678", "none"},
			{[]netip.Addr{two, two}, "ff02::1:ffbb:5678", "ff02::1:ffaa:1234"},
			{nil, "ff02::1", "ff02::1:ffbb:5678"},
		}
		for _, step := range steps {
			if err := SyncGroups(link, step.addrs); err != nil {
				t.Fatal(err)
			}
			if got := groups(); !strings.Contains(got, step.has) || strings.Contains(got, step.not) {
				t.Errorf("groups for %v, want %s and not %s:\n%s", step.addrs, step.has, step.not, got)
			}
		}
		// The group outlives the address that a down takes away; but a down right after
		// an up, before the kernel has looked for duplicates, now and then leaves it twice.
		for range 60 {
			if err := SyncGroups(link, []netip.Addr{one}); err != nil {
				t.Error(err)
			}
			here.Down(t, "eth0")
			here.Up(t, "eth0")
			netlab.WaitFor(t, 5*time.Second, "the group again", func() error {
				if err := SyncGroups(link, []netip.Addr{one}); err != nil {
					return err
				}
				if got := groups(); !strings.Contains(got, "ff02::1:ffaa:1234") {
					return errors.New(got)
				}
				return nil
			})
		}
	})
}
