// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}
	macC = [6]byte{2, 0, 0, 0, 0, 0xc}
	ip4  = netip.MustParseAddr("10.9.0.10")
	ip6  = netip.MustParseAddr("fd00::10")
	nets = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd00::1/64")}
)

func target(addr netip.Addr) Target { return Target{Addr: addr, Link: 1, Subnets: nets} }

func only(addrs ...netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		for _, addr := range addrs {
			if a == addr {
				return true
			}
		}
		return false
	}
}

// TestTiming checks a search that finds nobody against the RFC's numbers.
func TestTiming(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			n := newSegment()
			p := prober(t, n, macA, seed)
			v, err := p.Probe(t.Context(), target(ip4))
			if took := time.Since(n.began); err != nil || v != (Verdict{}) || took < 4*time.Second || took > 7*time.Second {
				t.Errorf("want it free after 4 to 7 s, got %+v, %v after %s", v, err, took)
			}
			at, claims := n.from(macA)
			if len(at) != 3 || len(claims) > 0 || at[0] > time.Second {
				t.Fatalf("want 3 probes from within a second on and no claim, got %v and %v", at, claims)
			}
			for i, gap := range []time.Duration{at[1] - at[0], at[2] - at[1], time.Since(n.began) - at[2]} {
				if min, max := probeMin, probeMax; gap < min || gap > max || i == 2 && gap < announceWait {
					t.Errorf("gap %d: want it within %s and %s, got %s", i, min, max, gap)
				}
			}
			began := time.Now()
			v, err = p.Probe(t.Context(), target(ip6))
			if took := time.Since(began); err != nil || v != (Verdict{}) || took < 3*time.Second || took > 4*time.Second {
				t.Errorf("want the IPv6 address free after 3 to 4 s, got %+v, %v after %s", v, err, took)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	everything := func(netip.Addr) bool { return true }
	inside := func(a netip.Addr) bool { return nets[0].Masked().Contains(a) }
	tests := []struct {
		name string
		addr netip.Addr
		on   func(n *segment)
		want Verdict
	}{
		{"free beside others", ip4, func(n *segment) { n.machine(macB, only(netip.MustParseAddr("10.9.0.11"))) }, Verdict{}},
		{"taken", ip4, func(n *segment) { n.machine(macB, only(ip4)) }, Verdict{Conflict: true, MAC: macB}},
		{"taken, IPv6", ip6, func(n *segment) { n.machine(macB, only(ip6)) }, Verdict{Conflict: true, MAC: macB}},
		{"taken, first answer lost", ip4, func(n *segment) {
			n.machine(macB, only(ip4))
			n.lost = func(i int) bool { return i <= 2 }
		}, Verdict{Conflict: true, MAC: macB}},
		{"by one of ours", ip4, func(n *segment) { n.machine(macC, only(ip4)) }, Verdict{}},
		{"proxy", ip4, func(n *segment) { n.machine(macB, everything) }, Verdict{Proxy: macB}},
		{"proxy inside the subnet", ip4, func(n *segment) { n.machine(macB, inside) }, Verdict{Proxy: macB}},
		{"proxy, IPv6", ip6, func(n *segment) { n.machine(macB, everything) }, Verdict{Proxy: macB}},
		{"taken behind a proxy", ip4, func(n *segment) {
			n.machine(macB, everything)
			n.machine(macA, only(ip4))
		}, Verdict{Conflict: true, MAC: macA}},
		{"by a machine with many", ip4, func(n *segment) {
			n.machine(macB, func(a netip.Addr) bool { return inside(a) && a.As4()[3] != 0 })
		}, Verdict{Conflict: true, MAC: macB}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newSegment()
				tt.on(n)
				p := prober(t, n, [6]byte{2, 0, 0, 0, 0, 1}, 1)
				p.Ours = func(mac [6]byte) bool { return mac == macC }
				if v, err := p.Probe(t.Context(), target(tt.addr)); err != nil || v != tt.want {
					t.Errorf("want %+v, got %+v, %v", tt.want, v, err)
				}
			})
		})
	}
}

// TestRateLimit: after ten conflicts one address a minute is tried.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSegment()
		free := netip.MustParseAddr("10.9.0.200")
		n.machine(macB, func(a netip.Addr) bool { return nets[0].Contains(a) && a.As4()[3] > 0 && a.As4()[3] < 200 })
		p := prober(t, n, macA, 3)
		var starts []time.Duration
		addr := ip4
		for range maxConflicts + 3 {
			addr = addr.Next()
			if v, err := p.Probe(t.Context(), target(addr)); err != nil || !v.Conflict {
				t.Fatalf("want a conflict, got %+v, %v", v, err)
			}
			starts = append(starts, time.Since(n.began))
		}
		if quick := starts[maxConflicts-1]; quick > 30*time.Second {
			t.Errorf("want %d tried at once, got %s", maxConflicts, quick)
		}
		for i := maxConflicts; i < len(starts); i++ {
			if gap := starts[i] - starts[i-1]; gap < rateLimit-3*time.Second {
				t.Errorf("want a minute between, got %v", starts)
			}
		}
		again := target(addr)
		again.Again = true
		began := time.Now()
		if v, err := p.Probe(t.Context(), again); err != nil || !v.Conflict || time.Since(began) > 5*time.Second {
			t.Errorf("want one that was taken before looked at without a wait, got %+v, %v after %s", v, err, time.Since(began))
		}
		if v, err := p.Probe(t.Context(), target(free)); err != nil || v.Conflict {
			t.Errorf("want it free, got %+v, %v", v, err)
		}
		began = time.Now()
		if _, err := p.Probe(t.Context(), target(free.Next())); err != nil || time.Since(began) > 10*time.Second {
			t.Errorf("want the limit lifted, got %s, %v", time.Since(began), err)
		}
	})
}

// TestManySearches: no more than some have a socket at a time, and all end.
func TestManySearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSegment()
		p := prober(t, n, macA, 1)
		open, opened, most := p.open, 0, 0
		var mu sync.Mutex
		p.open = func(link int, prefix netip.Prefix, join ...netip.Addr) (wire, error) {
			mu.Lock()
			defer mu.Unlock()
			n.mu.Lock()
			opened, most = opened+1, max(most, len(n.ears))
			n.mu.Unlock()
			return open(link, prefix, join...)
		}
		var all sync.WaitGroup
		addr := ip4
		for range 3 * maxSearches {
			addr = addr.Next()
			searched := addr
			all.Go(func() {
				if v, err := p.Probe(t.Context(), target(searched)); err != nil || v != (Verdict{}) {
					t.Errorf("%s: want it free, got %+v, %v", searched, v, err)
				}
			})
		}
		all.Wait()
		if took := time.Since(n.began); opened != 3*maxSearches || most > maxSearches || took > 25*time.Second {
			t.Errorf("want %d at a time at most, got %d; %d in %s", maxSearches, most, opened, took)
		}
	})
}

// TestRace has several clusters search for one address at the same time, each
// of which then watches over it: never two come through, and one does.
func TestRace(t *testing.T) {
	for _, addr := range []netip.Addr{ip4, ip6} {
		for seed := range uint64(50) {
			t.Run(fmt.Sprintf("%s seed %d", addr, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { race(t, addr, seed, 2+int(seed%3)) })
			})
		}
	}
}

func race(t *testing.T, addr netip.Addr, seed uint64, clusters int) {
	n := newSegment()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var won []int
	var searches, watches sync.WaitGroup
	for i := range clusters {
		mac := [6]byte{2, 0, 0, 0, 1, byte(i)}
		p := prober(t, n, mac, seed)
		if seed%5 == 0 { // all say the same at the same time, until they step back
			same, calls := p.random, 0
			p.random = func(d time.Duration) time.Duration {
				if calls++; calls == 1 {
					return d / 2
				}
				return same(d)
			}
		}
		searches.Go(func() {
			v, err := p.Probe(ctx, target(addr))
			if err != nil || v.Conflict {
				return
			}
			mu.Lock()
			won = append(won, i)
			mu.Unlock()
			w := NewWatcher(nil, func(Conflict) {}, slog.New(slog.DiscardHandler))
			w.open = p.open
			w.Set([]Guard{{Addr: addr, Link: 1}}, nil)
			watches.Go(func() { _ = w.Run(ctx) })
		})
	}
	searches.Wait()
	t.Logf("settled after %s", time.Since(n.began))
	cancel()
	watches.Wait()
	if len(won) != 1 {
		t.Errorf("want one that comes through, got %v", won)
	}
}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSegment()
		n.machine(macB, only(ip4))
		n.machine(macC, only(ip4, ip6))
		mine := func(mac [6]byte) bool { return mac == macC }
		found, err := ask(t.Context(), n.opener(macA), 1, mine, ip4, ip6)
		if err != nil || found[ip4] != macC || found[ip6] != macC || time.Since(n.began) > 10*time.Millisecond {
			t.Errorf("want both answered at once, got %v, %v after %s", found, err, time.Since(n.began))
		}
		began := time.Now()
		found, err = ask(t.Context(), n.opener(macA), 1, nil, ip4.Next(), ip6)
		if err != nil || len(found) != 1 || time.Since(began) != askCount*askInterval {
			t.Errorf("want one answered, and the other waited for, got %v, %v after %s", found, err, time.Since(began))
		}
	})
}
