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
		for range 2 { // the group outlives the address that a down takes away
			if err := SyncGroups(link, []netip.Addr{one}); err != nil {
				t.Error(err)
			}
			if got := groups(); !strings.Contains(got, "ff02::1:ffaa:1234") {
				t.Errorf("groups:\n%s", got)
			}
			// Down right after up, before the kernel has looked for duplicates, it leaves
			// the group once for the address and once for the membership that stays.
			netlab.WaitFor(t, 5*time.Second, "no address is tentative", func() error {
				if out := here.Exec(t, "ip", "-6", "address", "show", "dev", "eth0", "tentative"); out != "" {
					return errors.New(out)
				}
				return nil
			})
			here.Down(t, "eth0")
			here.Up(t, "eth0")
		}
	})
}
