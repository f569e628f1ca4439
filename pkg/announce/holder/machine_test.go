// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// fakeKernel counts what it is asked for.
type fakeKernel struct{ renewed, probes, claims int }

func (k *fakeKernel) Announce(netip.Addr, int, time.Duration) error { return nil }
func (k *fakeKernel) Renew(netip.Addr, int, time.Duration) (bool, error) {
	k.renewed++
	return true, nil
}
func (k *fakeKernel) Withdraw(netip.Addr, int) error { return nil }
func (k *fakeKernel) Claim(netip.Addr, int)          { k.claims++ }
func (k *fakeKernel) Probe(netip.Addr, int)          { k.probes++ }

var (
	vip  = netip.MustParseAddr("192.0.2.1")
	mine = map[netip.Addr]int{vip: 1}
)

// peers is the situation of a node "a" that hears "b", which holds what is given.
func peers(now time.Time, entries map[netip.Addr]int, held ...heartbeat.Held) Situation {
	return Situation{
		Now: now, Entries: entries, Wants: []Want{{Addr: vip, Link: 1, Order: []string{"a", "b"}, Best: "a"}},
		View: heartbeat.View{At: now, Settled: true, Peers: map[string]heartbeat.Peer{
			"b": {Name: "b", Agent: true, Known: true, State: heartbeat.State{Held: held}},
		}},
	}
}

// TestRenew: an entry is renewed in time however short its life is, at once if
// an earlier agent made it, and why it is gone is said as far as it is known.
func TestRenew(t *testing.T) {
	for _, tt := range []struct {
		expiry, each time.Duration
	}{{30 * time.Second, renewMost}, {6 * time.Second, 2 * time.Second}} {
		now := time.Now()
		k := &fakeKernel{}
		m := New("a", tt.expiry, k, mine, now)
		listening := peers(now, mine)
		listening.View.Settled = false
		next, _ := m.Step(listening)
		if k.renewed != 0 || next.Before(now.Add(look)) {
			t.Errorf("while it listens: renewed %d times, looks again after %v", k.renewed, next.Sub(now))
		}
		for end := now.Add(time.Minute); now.Before(end); now = now.Add(look) {
			_, _ = m.Step(peers(now, mine))
		}
		if want := int(time.Minute / tt.each); k.renewed != want {
			t.Errorf("expiry %v: renewed %d times in a minute, want %d", tt.expiry, k.renewed, want)
		}
		r := m.records[vip]
		for after, why := range map[time.Duration]string{time.Second: "another node claimed it", tt.expiry: "expired"} {
			st := step{Machine: m, s: &Situation{Now: r.renewed.Add(after)}, r: r}
			if got := st.lost(); !strings.Contains(got, why) || strings.Contains(got, "expired") != (after == tt.expiry) {
				t.Errorf("gone %v after it was renewed: %q, want %q", after, got, why)
			}
		}
	}
}

// TestStrangerGone: an address that was left to a stranger no longer is once
// this node takes it, or another one has it.
func TestStrangerGone(t *testing.T) {
	now := time.Now()
	handed := []heartbeat.Held{{Addr: vip, Epoch: 1, Offered: "a"}}
	for name, held := range map[string][]heartbeat.Held{"taken": handed, "watched": {{Addr: vip, Epoch: 1}}} {
		m := New("a", time.Minute, &fakeKernel{}, nil, now)
		_, _ = m.Step(peers(now, nil))
		m.Probed(vip, [6]byte{2}, now)
		if a := m.Addresses(); a[0].Stranger == [6]byte{} {
			t.Fatalf("%s: no stranger to begin with: %+v", name, a)
		}
		_, _ = m.Step(peers(now, nil, held...))
		if a := m.Addresses(); a[0].Stranger != [6]byte{} {
			t.Errorf("%s: still said to be a stranger's: %+v", name, a)
		}
	}
}

// TestShortLife: an address stays with a node whose agent started and ended before
// it could tell anything, for as long as its kernel goes on.
func TestShortLife(t *testing.T) {
	now := time.Now()
	m := New("a", time.Minute, &fakeKernel{}, nil, now)
	s := peers(now, nil, heartbeat.Held{Addr: vip, Epoch: 1})
	for _, tt := range []struct {
		since  time.Duration
		holder string
	}{{time.Second, "b"}, {Grace + time.Second, ""}} {
		b := s.View.Peers["b"]
		b.Agent, b.Known, b.Node, b.Answers, b.Gone = false, false, heartbeat.Alive, []int{1}, now.Add(-tt.since)
		s.View.Peers["b"] = b
		_, _ = m.Step(s)
		if got := m.Addresses()[0].Holder; got != tt.holder {
			t.Errorf("%v after its end it is %q's, want %q's", tt.since, got, tt.holder)
		}
	}
}

// TestAsking: a takeover doesn't wait for ever for its probe, if a node had the
// address before: one that nobody had may be a stranger's.
func TestAsking(t *testing.T) {
	for name, held := range map[string][]heartbeat.Held{"a node had it": {{Addr: vip, Epoch: 1}}, "nobody had it": nil} {
		now, k := time.Now(), &fakeKernel{}
		m := New("a", time.Minute, k, nil, now)
		_, _ = m.Step(peers(now, nil, held...))
		for _, after := range []time.Duration{0, asking / 2, asking} {
			s := peers(now.Add(time.Second+after), nil)
			s.View.Peers["b"] = heartbeat.Peer{Name: "b", Node: heartbeat.Dead}
			_, _ = m.Step(s)
			want := held != nil && after == asking
			if got := m.records[vip].phase == Claiming; got != want {
				t.Errorf("%s, %v after it was asked for: taken %v, want %v", name, after, got, want)
			}
		}
	}
}
