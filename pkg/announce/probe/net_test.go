// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
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

// TestProbeKernel searches for addresses that a real kernel has, and has not.
func TestProbeKernel(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		peer.Addr(t, "eth0", "10.9.0.1/24")
		peer.Addr(t, "eth0", "fd00::1/64")
		link, mac := here.Index(t, "eth0"), peer.MAC(t, "eth0")
		for _, tt := range []struct {
			addr string
			want Verdict
		}{
			{"10.9.0.1", Verdict{Conflict: true, MAC: mac}},
			{"fd00::1", Verdict{Conflict: true, MAC: mac}},
			{"10.9.0.2", Verdict{}},
			{"fd00::2", Verdict{}},
		} {
			t.Run(tt.addr, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				v, err := New(nil).Probe(t.Context(), Target{Addr: netip.MustParseAddr(tt.addr), Link: link, Subnets: nets})
				if err != nil || v != tt.want {
					t.Errorf("want %+v, got %+v, %v", tt.want, v, err)
				}
				t.Logf("%+v after %s", v, time.Since(began))
			})
		}
	})
}

// TestWatchKernel guards addresses against a real kernel: its duplicate address
// detection is told that they are taken, and what it claims is noticed within a
// second.
func TestWatchKernel(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		link, mac := here.Index(t, "eth0"), peer.MAC(t, "eth0")
		told := make(chan Conflict, 9)
		w := NewWatcher(nil, func(c Conflict) { told <- c }, slog.Default())
		guard := Guard{Addr: netip.MustParseAddr("fd00::10"), Link: link}
		claimed := Guard{Addr: netip.MustParseAddr("10.9.0.10"), Link: link, Announced: true}
		w.Set([]Guard{guard, claimed}, map[int][]netip.Prefix{link: nets})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		netlab.WaitFor(t, 5*time.Second, "the group is joined", func() error {
			if out := here.Exec(t, "ip", "maddr", "show", "dev", "eth0"); !strings.Contains(out, "ff02::1:ff00:10") {
				return fmt.Errorf("groups: %s", out)
			}
			return nil
		})
		peer.Exec(t, "ip", "addr", "add", "fd00::10/64", "dev", "eth0")
		netlab.WaitFor(t, 5*time.Second, "the kernel finds the guarded address taken", func() error {
			if out := peer.Exec(t, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, "dadfailed") {
				return fmt.Errorf("addresses: %s", out)
			}
			return nil
		})
		peer.Sysctl(t, "net/ipv4/conf/eth0/arp_notify", "1")
		peer.Exec(t, "ip", "link", "set", "eth0", "down")
		peer.Exec(t, "ip", "addr", "add", "10.9.0.10/24", "dev", "eth0")
		began := time.Now()
		peer.Up(t, "eth0") // now it announces it
		select {
		case c := <-told:
			if c.Addr != claimed.Addr || c.MAC != mac {
				t.Errorf("want the claim of %x, got %+v", mac, c)
			}
			t.Logf("noticed %s after the link came up", time.Since(began))
		case <-time.After(5 * time.Second):
			t.Error("want the claim noticed")
		}
	})
}

// TestWatchThousand guards 1,000 addresses of each family with the memory for
// sockets that older kernels give: claims of the first and the last are noticed
// within a second, and who searches for the last is told that it is taken.
func TestWatchThousand(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		_ = os.WriteFile("/proc/sys/net/core/optmem_max", []byte("20480"), 0) // a network namespace's own where it is there at all
		link := here.Index(t, "eth0")
		var guards []Guard
		for i := range 1000 {
			guards = append(guards,
				Guard{Addr: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Link: link, Announced: true},
				Guard{Addr: netip.MustParseAddr(fmt.Sprintf("fd00::%x:%x", i%7, 0x100+i)), Link: link, Announced: i < 999})
		}
		told := make(chan Conflict, 9)
		w := NewWatcher(nil, func(c Conflict) { told <- c }, slog.Default())
		w.Set(guards, map[int][]netip.Prefix{link: nets})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		last := guards[len(guards)-1].Addr
		netlab.WaitFor(t, 10*time.Second, "all groups are joined, and both sockets open", func() error {
			groups := strings.Count(here.Exec(t, "ip", "maddr", "show", "dev", "eth0"), "ff02::1:ff")
			sockets, err := os.ReadFile("/proc/net/packet")
			if n := strings.Count(string(sockets), "\n"); err != nil || groups < 1000 || n < 3 { // a line of headings
				return fmt.Errorf("%d groups, %d lines of sockets, %w", groups, n, err)
			}
			return nil
		})
		for _, g := range []Guard{guards[0], guards[1], guards[len(guards)-2], guards[len(guards)-3]} {
			began := time.Now()
			announceFrom(t, peer, g.Addr)
			select {
			case c := <-told:
				if c.Addr != g.Addr || time.Since(began) > time.Second {
					t.Errorf("want the claim of %s within a second, got %+v after %s", g.Addr, c, time.Since(began))
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("want the claim of %s noticed", g.Addr)
			}
		}
		peer.Exec(t, "ip", "addr", "add", last.String()+"/64", "dev", "eth0")
		netlab.WaitFor(t, 10*time.Second, "the kernel finds the last address taken", func() error {
			if out := peer.Exec(t, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, "dadfailed") {
				return fmt.Errorf("addresses: %s", out)
			}
			return nil
		})
	})
}

// announceFrom says that an address is the namespace's.
func announceFrom(t *testing.T, ns *netlab.Namespace, addr netip.Addr) {
	t.Helper()
	err := ns.Do(func() error {
		w, err := openSocket(ns.Index(t, "eth0"), frame.Covering(addr))
		if err != nil {
			return err
		}
		defer w.Close()
		for _, f := range frame.Announcements(addr, w.MAC()) {
			if err := w.Send(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
