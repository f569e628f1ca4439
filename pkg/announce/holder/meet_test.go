// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// TestMeets: of two holders that hear each other again the one that keeps the
// address tells the network so anew, at each beat at most, as who is there may
// have learnt the other's MAC; the other one is quiet.
func TestMeets(t *testing.T) {
	now := time.Now()
	k := &fakeKernel{}
	m := New("a", time.Minute, k, mine, now)
	m.records[vip].epoch = 5
	_, _ = m.Step(peers(now, mine)) // which claims what an earlier life left
	before := k.claims
	for i := range 10 {
		_, _ = m.Step(peers(now.Add(time.Duration(i)*heartbeat.Interval/5), mine, heartbeat.Held{Addr: vip, Epoch: 4}))
	}
	if got := k.claims - before; got != 2 || m.records[vip].phase != Holding {
		t.Errorf("the later holder claimed %d times in 180 ms and is %v, want 2 and holding", got, m.records[vip].phase)
	}
	before = k.claims
	_, _ = m.Step(peers(now.Add(time.Second), mine, heartbeat.Held{Addr: vip, Epoch: 6}))
	if m.records[vip].phase != Idle || k.claims != before {
		t.Errorf("the earlier holder is %v and claimed %d times, want it idle and quiet", m.records[vip].phase, k.claims-before)
	}
}

// TestStoodStill: who stood still between its claim and its answer doesn't begin
// to answer: another one may have the address by now.
func TestStoodStill(t *testing.T) {
	for name, tt := range map[string]struct {
		after   time.Duration
		settled bool
		want    Phase
	}{
		"too early":             {yielding / 2, true, Claiming},
		"in time":               {yielding, true, Holding},
		"known to the beats":    {yielding, false, Idle},
		"not yet known to them": {2 * heartbeat.Silence, true, Idle},
	} {
		now := time.Now()
		m := New("a", time.Minute, &fakeKernel{}, nil, now)
		entries := map[netip.Addr]int{}
		_, _ = m.Step(peers(now, entries, heartbeat.Held{Addr: vip, Epoch: 1, Offered: "a"}))
		if m.records[vip].phase != Claiming {
			t.Fatalf("%s: %v, want it claimed", name, m.records[vip].phase)
		}
		s := peers(now.Add(tt.after), entries)
		s.View.Settled = tt.settled
		_, _ = m.Step(s)
		if got := m.records[vip].phase; got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestDoubtful: nothing is offered to a node whose beats are missing.
func TestDoubtful(t *testing.T) {
	now := time.Now()
	m := New("a", time.Minute, &fakeKernel{}, mine, now)
	for doubtful, want := range map[bool]string{false: "b", true: ""} {
		s := peers(now, mine)
		s.Wants[0].Best = "b"
		b := s.View.Peers["b"]
		b.Doubtful = doubtful
		s.View.Peers["b"] = b
		_, _ = m.Step(s)
		if got := m.records[vip].offered; got != want {
			t.Errorf("doubtful %v: offered to %q, want %q", doubtful, got, want)
		}
	}
}

// TestManners: a kernel that answers again is told what moved, unless its agent
// speaks up in time: then the beats tell.
func TestManners(t *testing.T) {
	for _, speaks := range []bool{false, true} {
		now, k := time.Now(), &fakeKernel{}
		m := New("a", time.Minute, k, mine, now)
		step := func(after time.Duration, agent bool, answers ...int) {
			s := peers(now.Add(after), mine)
			b := s.View.Peers["b"]
			b.Agent, b.Answers = agent, answers
			s.View.Peers["b"] = b
			_, _ = m.Step(s)
		}
		step(0, false)
		before := k.claims
		step(time.Second, false, 1)
		step(time.Second+manners/2, speaks, 1)
		if k.claims != before {
			t.Errorf("claimed %d times before its manners were over", k.claims-before)
		}
		step(time.Second+manners, speaks, 1)
		step(2*time.Second, speaks, 1)
		if want := map[bool]int{false: 1, true: 0}[speaks]; k.claims-before != want {
			t.Errorf("agent speaks %v: claimed %d times, want %d", speaks, k.claims-before, want)
		}
	}
}

// TestWakes: who stood still tells a kernel that answers what it holds, though its
// agent was heard before, unless that has told anew in time what it holds.
func TestWakes(t *testing.T) {
	for _, known := range []bool{false, true} {
		now, k := time.Now(), &fakeKernel{}
		m := New("a", time.Minute, k, mine, now)
		step := func(after time.Duration, settled, known bool) {
			s := peers(now.Add(after), mine)
			b := s.View.Peers["b"]
			b.Links, b.Known = []int{1}, known
			if s.View.Settled = settled; !settled {
				b.Answers = []int{1}
			}
			s.View.Peers["b"] = b
			_, _ = m.Step(s)
		}
		step(0, true, true)
		before := k.claims
		step(time.Second, false, false)
		step(time.Second+manners, false, known)
		if k.claims != before {
			t.Errorf("claimed %d times before its manners were over", k.claims-before)
		}
		step(time.Second+2*manners, false, known)
		step(time.Second+3*manners, false, known)
		if want := map[bool]int{false: 1, true: 0}[known]; k.claims-before != want {
			t.Errorf("agent known %v: claimed %d times, want %d", known, k.claims-before, want)
		}
	}
}

// TestGoesOn: a node that stood still as a whole goes on while the agent that has
// taken its addresses over is dead. Of the two kernels that answer one is told at
// once, by the only agent that can, though its first questions may be lost. One
// that is told by beats claims nothing.
func TestGoesOn(t *testing.T) {
	for _, dead := range []bool{true, false} {
		for _, lost := range []time.Duration{0, 20 * time.Millisecond} {
			real := time.Now()
			synctest.Test(t, func(t *testing.T) { goesOn(t, real, dead, lost) })
		}
	}
}

func goesOn(t *testing.T, real time.Time, dead bool, lost time.Duration) {
	w := newWorld(real, 2, 6)
	defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
	time.Sleep(15 * time.Second)
	sleeper, other := w.nodes[0], w.nodes[1]
	passes := func(on bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		sleeper.off = !on
	}
	passes(false)
	sleeper.stop()
	time.Sleep(2 * time.Second)
	if dead {
		other.kill()
	}
	sleeper.goOn()
	time.Sleep(lost)
	passes(true)
	for range 40 {
		time.Sleep(5 * time.Millisecond)
		if w.held(sleeper)+w.held(other) < len(w.addrs) {
			t.Fatalf("dead %v, %v lost: an address is answered for by nobody", dead, lost)
		}
	}
	for _, addr := range w.addrs {
		if names := w.answering(addr); len(names) != 1 || !dead && names[0] != other.name {
			t.Errorf("dead %v, %v lost: after 200 ms %s is answered for by %v", dead, lost, addr, names)
		}
	}
}
