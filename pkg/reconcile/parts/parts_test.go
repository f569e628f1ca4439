// SPDX-License-Identifier: Apache-2.0

package parts

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// log keeps when each part ran.
type log struct {
	mu  sync.Mutex
	ran map[string][]time.Duration
}

func (l *log) part(name string, begun time.Time, failures int, kinds ...source.Kind) Part {
	return Part{Name: name, Kinds: kinds, Sync: func(context.Context, Objects) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ran[name] = append(l.ran[name], time.Since(begun))
		if len(l.ran[name]) <= failures {
			return errors.New("no")
		}
		return nil
	}}
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{ran: map[string][]time.Duration{}}
		begun := time.Now()
		early := l.part("early", begun, 0, source.KindNodeRoute)
		early.Early = true
		pools, failing := l.part("pools", begun, 0, source.KindIPPool), l.part("failing", begun, 2)
		stuck := Part{Name: "stuck", Sync: func(ctx context.Context, _ Objects) error { <-ctx.Done(); return ctx.Err() }}
		known := false
		problems := map[string]int{}
		s := New(Options{Parts: []Part{early, pools, failing, stuck}, Objects: func() Objects { return Objects{Known: known} },
			Note: func(part string, err error) {
				l.mu.Lock()
				defer l.mu.Unlock()
				if err != nil {
					problems[part]++
				}
			}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		pass := func(during func()) {
			s.Begin()
			during()
			s.Release(known)
		}
		nothing := func() {}
		pass(nothing)
		s.Wake("pools") // too early
		time.Sleep(time.Second)
		known = true
		pass(nothing)
		pass(nothing)
		time.Sleep(10 * time.Second)
		pass(func() { s.Mark(source.KindIPPool) }) // it may have been looked at already
		time.Sleep(time.Second)
		pass(nothing)
		pass(nothing)
		s.Wake("early")
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := map[string][]time.Duration{
			"early":   {0, 12 * time.Second},
			"pools":   {time.Second, 11 * time.Second, 12 * time.Second},
			"failing": {time.Second, time.Second + retryFirst, time.Second + 3*retryFirst},
		}
		if diff := cmp.Diff(want, l.ran); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"failing": 2}, problems); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
}
