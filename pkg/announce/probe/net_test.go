// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestAskKernel asks a real kernel that has some of the addresses.
func TestAskKernel(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		peer.Addr(t, "eth0", "192.0.2.1/24")
		peer.Addr(t, "eth0", "fd00::1/64")
		had := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::1")}
		free := []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd00::2")}
		for _, asked := range [][]netip.Addr{had[:1], had[1:], had, free, {had[0], free[0], free[1]}} {
			began := time.Now()
			found, err := Ask(t.Context(), here.Index(t, "eth0"), asked...)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v: %v after %v", asked, found, time.Since(began))
			for _, addr := range asked {
				mac, ok := found[addr]
				if has := addr == had[0] || addr == had[1]; ok != has || ok && mac != peer.MAC(t, "eth0") {
					t.Errorf("%s: want answered %v by %x, got %v by %x", addr, has, peer.MAC(t, "eth0"), ok, mac)
				}
			}
		}
	})
}
