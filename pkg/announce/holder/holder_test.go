// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// The bounds that the random schedules are held to.
const (
	maxTwo  = heartbeat.Interval + 20*time.Millisecond // that two answer, once both are heard
	maxNone = 900 * time.Millisecond                   // that none answers, while one could
	waking  = 200 * time.Millisecond                   // what the process that could needs more, if it was away itself
)

// observer watches the external network as a client would.
type observer struct {
	w         *world
	two, none map[string]time.Duration
	worstTwo  time.Duration
	worstNone time.Duration
}

// watch lets time pass, and returns what was wrong first.
func (o *observer) watch(d time.Duration) error {
	const tick = 5 * time.Millisecond
	for ; d > 0; d -= tick {
		time.Sleep(tick)
		able := o.w.able()
		for _, addr := range o.w.addrs {
			names, key := o.w.answering(addr), addr.String()
			if len(names) > 1 && o.w.awake(names) { // else there is nobody who could say anything
				o.two[key] += tick
			} else {
				o.two[key] = 0
			}
			if len(names) == 0 && able > 0 {
				o.none[key] += tick
			} else {
				o.none[key] = 0
			}
			o.worstTwo, o.worstNone = max(o.worstTwo, o.two[key]), max(o.worstNone, o.none[key])
			if o.two[key] > maxTwo {
				return fmt.Errorf("%v: %s is answered for by %v", time.Since(o.w.began), addr, names)
			}
			if o.none[key] > maxNone+waking {
				return fmt.Errorf("%v: %s is answered for by nobody", time.Since(o.w.began), addr)
			}
		}
	}
	return nil
}

func observe(w *world) *observer {
	return &observer{w: w, two: map[string]time.Duration{}, none: map[string]time.Duration{}}
}

// TestRandomSchedules: whatever happens in whatever order, never two for longer
// than a heartbeat, and never none while somebody could.
func TestRandomSchedules(t *testing.T) {
	seeds := 15
	if s := os.Getenv("HOLDER_SEEDS"); s != "" {
		seeds, _ = strconv.Atoi(s)
	}
	for nodes := 1; nodes <= 3; nodes++ {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%d nodes/%d", nodes, seed), func(t *testing.T) {
				real := time.Now()
				synctest.Test(t, func(t *testing.T) { schedule(t, real, nodes, uint64(seed)) })
			})
		}
	}
}

func schedule(t *testing.T, real time.Time, nodes int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, uint64(nodes)))
	w := newWorld(real, nodes, 3)
	defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
	time.Sleep(2 * time.Second)
	o := observe(w)
	for range 30 {
		w.fault(r)
		o.none = map[string]time.Duration{} // counted from each fault
		if err := o.watch(time.Duration(r.Int64N(int64(4 * time.Second)))); err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(w.log, "\n"))
		}
	}
}

// TestClock: that the test's clock jumps as far as it is meant to, and that
// nothing moves by it.
func TestClock(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(real, 3, 4)
		defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
		time.Sleep(15 * time.Second)
		n := w.nodes[0]
		was, before := n.now(), len(w.log)
		for _, days := range []int64{1, -1, 0} {
			n.skew.Store(days * 86400)
			if off := n.now().Round(0).Sub(was.Round(0)); off.Round(time.Hour) != time.Duration(days)*24*time.Hour {
				t.Fatalf("the wall clock is %v off", off)
			}
			if err := observe(w).watch(15 * time.Second); err != nil {
				t.Error(err)
			}
		}
		if len(w.log) != before {
			t.Errorf("something moved:\n%s", strings.Join(w.log[before:], "\n"))
		}
	})
}

// TestRestarts: an agent that is restarted again and again moves nothing, however
// short it lives and however late it knows its NICs and the objects.
func TestRestarts(t *testing.T) {
	for seed := range uint64(8) {
		real := time.Now()
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			some := func(most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) }
			w := newWorld(real, 2+r.IntN(2), 6)
			defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
			time.Sleep(15 * time.Second)
			n, moves := w.nodes[0], len(w.log)
			o := observe(w)
			for range 8 {
				n.kill()
				some(Grace / 10)
				n.begin()
				n.run()
				some(2 * heartbeat.Silence)
				n.see()
				some(2 * heartbeat.Silence)
			}
			if err := o.watch(HoldDown + time.Second); err != nil {
				t.Error(err)
			}
			if len(w.log) != moves {
				t.Errorf("seed %d: something moved:\n%s", seed, strings.Join(w.log[moves:], "\n"))
			}
		})
	}
}

// TestDrain: a node that leaves is without addresses at once, and nobody goes
// unanswered meanwhile; once it stays again it gets them back in time, not before.
func TestDrain(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(real, 3, 6)
		defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
		time.Sleep(15 * time.Second)
		leaver, had := w.nodes[0], w.held(w.nodes[0])
		if had == 0 {
			t.Fatal("the hash gave the node nothing")
		}
		o := observe(w)
		leaver.keeper.SetLeaving(true)
		if err := o.watch(100 * time.Millisecond); err != nil {
			t.Error(err)
		}
		if leaver.keeper.Busy() || w.held(leaver) > 0 || o.worstNone > 2*yielding {
			t.Errorf("after 100 ms it has %d addresses; nobody answered for %v", w.held(leaver), o.worstNone)
		}
		leaver.keeper.SetLeaving(false)
		if err := o.watch(HoldDown - time.Second); err != nil || w.held(leaver) > 0 {
			t.Errorf("%v; it has %d addresses back already", err, w.held(leaver))
		}
		if err := o.watch(3 * time.Second); err != nil || w.held(leaver) != had || o.worstNone > 2*yielding {
			t.Errorf("%v; it has %d addresses, want its %d; nobody answered for %v", err, w.held(leaver), had, o.worstNone)
		}
	})
}

// TestLastOne: a node that nobody is left to take over from goes on for ever,
// with its agent and without.
func TestLastOne(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(real, 2, 2)
		defer func() { w.end(); time.Sleep(time.Second); synctest.Wait() }()
		time.Sleep(15 * time.Second)
		w.nodes[1].kill()
		w.mu.Lock()
		w.nodes[1].off = true
		w.mu.Unlock()
		time.Sleep(time.Second)
		if err := observe(w).watch(time.Minute); err != nil {
			t.Error(err)
		}
		w.nodes[0].kill()
		time.Sleep(time.Hour)
		for _, addr := range w.addrs {
			if names := w.answering(addr); len(names) != 1 {
				t.Errorf("%s is answered for by %v an hour after the last agent's end", addr, names)
			}
		}
	})
}

// held counts the addresses that a node answers for.
func (w *world) held(n *simNode) (count int) {
	for _, addr := range w.addrs {
		if slices.Contains(w.answering(addr), n.name) {
			count++
		}
	}
	return count
}
