// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// watched runs f beside a watcher of machine A that guards the addresses.
func watched(t *testing.T, announced bool, f func(n *segment, w *Watcher, told *[]Conflict)) {
	synctest.Test(t, func(t *testing.T) {
		n := newSegment()
		var told []Conflict
		w := NewWatcher(func(mac [6]byte) bool { return mac == macC }, func(c Conflict) { told = append(told, c) }, slog.New(slog.DiscardHandler))
		w.open = n.opener(macA)
		w.Set([]Guard{{ip4, 1, announced}, {ip6, 1, announced}}, map[int][]netip.Prefix{1: nets})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		synctest.Wait()
		f(n, w, &told)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func send(t *testing.T, n *segment, mac [6]byte, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if err := (&port{net: n, mac: mac}).Send(f); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	synctest.Wait()
}

// TestWatchClaims: a claim is noticed within a second, told once, and the
// address defended once in ten seconds.
func TestWatchClaims(t *testing.T) {
	for _, addr := range []netip.Addr{ip4, ip6} {
		watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
			send(t, n, macB, frame.Announcements(addr, macB)[0])
			list := w.Conflicts()
			if len(*told) != 1 || len(list) != 1 || list[0].Addr != addr || list[0].MAC != macB {
				t.Fatalf("%s: want one conflict, got %+v, told %+v", addr, list, *told)
			}
			each := len(frame.Announcements(addr, macA))
			if _, claims := n.from(macA); len(claims) != each {
				t.Errorf("%s: want it defended once, got claims at %v", addr, claims)
			}
			for range 15 {
				send(t, n, macB, frame.Announcements(addr, macB)[0])
			}
			if _, claims := n.from(macA); len(claims) != 2*each || len(*told) != 1 {
				t.Errorf("%s: want it defended again after ten seconds, got claims at %v, told %+v", addr, claims, *told)
			}
			send(t, n, macC, frame.Announcements(addr, macC)...)
			send(t, n, macB, frame.Announcements(addr.Next(), macB)...)
			if len(w.Conflicts()) != 1 {
				t.Errorf("%s: want no conflict by ours, nor for others' addresses, got %+v", addr, w.Conflicts())
			}
			time.Sleep(2 * lookAgain)
			if len(w.Conflicts()) != 0 {
				t.Errorf("%s: want it over, got %+v", addr, w.Conflicts())
			}
		})
	}
}

func TestWatchKeepsConflictWhileItLasts(t *testing.T) {
	watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
		n.machine(macB, only(ip4))
		send(t, n, macB, frame.Announcements(ip4, macB)[0])
		time.Sleep(10 * lookAgain)
		if len(w.Conflicts()) != 1 || len(*told) != 1 {
			t.Errorf("want it kept and told once, got %+v, told %+v", w.Conflicts(), *told)
		}
	})
}

// TestWatchForgedMACs: claims by ever other MACs are told once in ten seconds,
// and the address is defended as often.
func TestWatchForgedMACs(t *testing.T) {
	watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
		for i := range 600 {
			mac := [6]byte{2, 0, 0, 1, byte(i >> 8), byte(i)}
			if err := (&port{net: n, mac: mac}).Send(frame.Announcements(ip4, mac)[0]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		synctest.Wait()
		if len(*told) != 3 || len(w.Conflicts()) != 1 {
			t.Errorf("want 600 claims in 30 s told 3 times, of one conflict, got %d and %+v", len(*told), w.Conflicts())
		}
		if _, claims := n.from(macA); len(claims) != 3*len(frame.Announcements(ip4, macA)) {
			t.Errorf("want it defended 3 times, got claims at %v", claims)
		}
	})
}

// TestWatchForgedAnswers: answers by ever other MACs, each of which may be a
// router that answers for everything, neither have us ask without end nor make
// us deaf to claims, and a router that is known as one stays no conflict.
func TestWatchForgedAnswers(t *testing.T) {
	watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
		router := [6]byte{2, 0, 0, 0, 0, 0x77}
		n.machine(router, func(netip.Addr) bool { return true })
		answer := func(addr netip.Addr, mac [6]byte) {
			f := frame.ARP{Op: frame.ARPReply, SenderMAC: mac, Sender: addr, TargetMAC: macA, Target: ip4.Next()}.Frame(macA)
			if err := (&port{net: n, mac: mac}).Send(f); err != nil {
				t.Fatal(err)
			}
		}
		answer(ip4, router)
		time.Sleep(time.Second)
		for i := range 3000 {
			answer(ip4, [6]byte{2, 0, 0, 2, byte(i >> 8), byte(i)})
			time.Sleep(10 * time.Millisecond)
			if i == 1500 {
				if err := (&port{net: n, mac: macB}).Send(frame.Announcements(ip6, macB)[0]); err != nil {
					t.Fatal(err)
				}
				answer(ip4, router)
			}
			if i == 1600 && !slices.ContainsFunc(w.Conflicts(), func(c Conflict) bool { return c.Addr == ip6 && c.MAC == macB }) {
				t.Errorf("want the claim of %s noticed within a second, got %+v", ip6, w.Conflicts())
			}
		}
		synctest.Wait()
		if slices.ContainsFunc(*told, func(c Conflict) bool { return c.MAC == router }) || len(*told) > 6 {
			t.Errorf("want few told, and no router, got %d: %+v", len(*told), *told)
		}
		if probes, _ := n.from(macA); len(probes) > 5*maxAsked*16 { // in 30 s; two for each control address
			t.Errorf("want few questions, got %d", len(probes))
		}
	})
}

// TestWatchAnswers: who searches for an address that was found free here is
// told that it is taken, until the datapath does.
func TestWatchAnswers(t *testing.T) {
	for _, announced := range []bool{false, true} {
		watched(t, announced, func(n *segment, w *Watcher, told *[]Conflict) {
			send(t, n, macB, frame.Probe(ip4, macB), frame.Probe(ip6, macB), frame.Probe(ip6, macB))
			want := 3 // two frames for IPv4, one for IPv6
			if announced {
				want = 0
			}
			if _, claims := n.from(macA); len(claims) != want {
				t.Errorf("announced %v: want %d claims, got %v", announced, want, claims)
			}
			if len(*told) > 0 {
				t.Errorf("want no conflict, got %+v", *told)
			}
		})
	}
}

func TestWatchProxy(t *testing.T) {
	watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
		n.machine(macB, func(netip.Addr) bool { return true })
		answer := frame.ARP{Op: frame.ARPReply, SenderMAC: macB, Sender: ip4, TargetMAC: macA, Target: ip4.Next()}
		send(t, n, macB, answer.Frame(macA))
		if len(*told) > 0 || len(w.Conflicts()) > 0 {
			t.Errorf("want no conflict by a proxy, got %+v", w.Conflicts())
		}
	})
}

// TestWatchFollows: what is no longer guarded is no conflict, and what is new
// is heard.
func TestWatchFollows(t *testing.T) {
	watched(t, true, func(n *segment, w *Watcher, told *[]Conflict) {
		send(t, n, macB, frame.Announcements(ip4, macB)[0])
		other := netip.MustParseAddr("10.9.0.99")
		w.Set([]Guard{{other, 1, true}}, nil)
		synctest.Wait()
		if len(w.Conflicts()) != 0 {
			t.Errorf("want it forgotten, got %+v", w.Conflicts())
		}
		send(t, n, macB, frame.Announcements(ip4, macB)[0], frame.Announcements(other, macB)[0])
		if list := w.Conflicts(); len(list) != 1 || list[0].Addr != other {
			t.Errorf("want %s, got %+v", other, list)
		}
	})
}
