// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestGuard lets a leg speak for itself, and for nobody else.
func TestGuard(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		here.Addr(t, "pb-int", "fd00:31::1/64")
		l.Guard = true
		l.Addrs = append(l.Addrs, netip.MustParsePrefix("172.31.0.11/24"), netip.MustParsePrefix("fd00:31::11/64"))
		if _, err := Create(l); err != nil {
			t.Fatal(err)
		}
		for _, own := range []string{"172.31.0.10", "172.31.0.11", "fd00:31::10", "fd00:31::11"} {
			here.Exec(t, "ping", "-c1", "-W2", own)
		}
		inside.Exec(t, "ping", "-c1", "-W2", "172.31.0.1")
		inside.Exec(t, "ip", "addr", "add", "172.31.0.66/24", "dev", "eth0")
		inside.Exec(t, "ip", "addr", "add", "fd00:31::66/64", "dev", "eth0", "nodad")
		for _, foreign := range []string{"172.31.0.66", "fd00:31::66"} {
			if out, err := here.TryExec("ping", "-c1", "-W1", foreign); err == nil {
				t.Errorf("%s, which isn't the leg's, is answered for: %s", foreign, out)
			}
		}
	})
}

// TestProbe refuses an address that another machine on the switch has.
func TestProbe(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, _, l := setup(t)
		other := netlab.New(t)
		taken := l
		taken.HostName, taken.Netns = HostName("other", "eth0"), other.FD()
		taken.Addrs, taken.Routes = []netip.Prefix{netip.MustParsePrefix("172.31.0.10/24")}, nil
		l.Probe = true
		if _, err := Create(taken); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(l); !errors.Is(err, ErrInUse) {
			t.Errorf("create with another's IPv4 address: %v, want ErrInUse", err)
		}
		other.Exec(t, "ip", "addr", "del", "172.31.0.10/24", "dev", "eth0")
		other.Exec(t, "ip", "addr", "add", "fd00:31::10/64", "dev", "eth0", "nodad")
		if _, err := Create(l); !errors.Is(err, ErrInUse) {
			t.Errorf("create with another's IPv6 address: %v, want ErrInUse", err)
		}
		other.Exec(t, "ip", "addr", "del", "fd00:31::10/64", "dev", "eth0")
		start := time.Now()
		if _, err := Create(l); err != nil {
			t.Errorf("create with free addresses: %v", err)
		}
		t.Logf("probed for %v", time.Since(start))
		here.Exec(t, "ip", "link", "show", l.HostName)
	})
}
