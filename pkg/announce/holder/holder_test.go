// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"fmt"
	"math/rand/v2"
	"os"
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

func (o *observer) reset() { clear(o.none); clear(o.two) }

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
				synctest.Test(t, func(t *testing.T) { schedule(t, nodes, uint64(seed)) })
			})
		}
	}
}

func schedule(t *testing.T, nodes int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, uint64(nodes)))
	w := newWorld(nodes, 3)
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
