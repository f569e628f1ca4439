// SPDX-License-Identifier: Apache-2.0

package sourcetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// patience bounds every wait for an event.
const patience = 10 * time.Second

// Recorder runs a source and holds what it emitted.
type Recorder struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	events []source.Event
	ended  bool
	late   int // events after Run returned, or two at once
	inside bool
	err    error
	more   chan struct{} // closed and renewed at each event
}

// Record runs src for these kinds until the test ends or Stop.
func Record(t testing.TB, src source.Source, kinds ...source.Kind) *Recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{cancel: cancel, done: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(r.done)
		err := src.Run(ctx, kinds, r.take)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended, r.err = true, err
		close(r.more)
	}()
	t.Cleanup(func() { r.Stop(t) })
	return r
}

func (r *Recorder) take(ev source.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.inside {
		r.late++
		return
	}
	r.events = append(r.events, ev)
	close(r.more)
	r.more = make(chan struct{})
}

// Stop ends the source. Fails the test unless Run returned nil, in time, and
// emitted nothing afterwards.
func (r *Recorder) Stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatal("Run doesn't return when its context ends")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		t.Errorf("Run = %v, want nil when its context ends", r.err)
		r.err = nil
	}
	if r.late > 0 {
		t.Errorf("%d events were emitted at once with others or after Run returned", r.late)
	}
}

// Events returns what was emitted so far.
func (r *Recorder) Events() []source.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Wait returns the first event from number from on that match accepts, and the
// number of the one after it. Fails the test if there is none in time.
func (r *Recorder) Wait(t testing.TB, from int, what string, match func(source.Event) bool) (source.Event, int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		for i := from; i < len(r.events); i++ {
			if match(r.events[i]) {
				ev := r.events[i]
				r.mu.Unlock()
				return ev, i + 1
			}
		}
		more, ended, err := r.more, r.ended, r.err
		r.mu.Unlock()
		if ended {
			t.Fatalf("waiting for %s: Run returned %v; events:\n%s", what, err, Steps(r.Events()))
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("waiting for %s: nothing in %v; events:\n%s", what, patience, Steps(r.Events()))
		}
	}
}

// WaitFor waits for an operation on an object.
func (r *Recorder) WaitFor(t testing.TB, from int, op source.Op, kind source.Kind, key source.Key) (source.Event, int) {
	t.Helper()
	return r.Wait(t, from, fmt.Sprintf("%s %s %s", op, kind, key), func(ev source.Event) bool {
		return ev.Op == op && ev.Kind == kind && ev.Key == key
	})
}

// WaitSynced waits until all the kinds are synced and returns the number of the
// event after.
func (r *Recorder) WaitSynced(t testing.TB, kinds ...source.Kind) int {
	t.Helper()
	last := 0
	for _, kind := range kinds {
		_, n := r.WaitFor(t, 0, source.Synced, kind, source.Key{})
		last = max(last, n)
	}
	return last
}

// Steps writes events one to a line, as "op kind key".
func Steps(events []source.Event) string {
	var out []byte
	for _, ev := range events {
		out = fmt.Appendf(out, "%s %s %s", ev.Op, ev.Kind, ev.Key)
		if ev.Err != nil {
			out = fmt.Appendf(out, ": %v", ev.Err)
		}
		out = append(out, '\n')
	}
	return string(out)
}
