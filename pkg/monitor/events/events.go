// SPDX-License-Identifier: Apache-2.0

// Package events keeps what the agent has lately said in its log, for those
// who ask it and have no log at hand.
package events

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// room is how many events are kept: the oldest go first.
const room = 1000

// Ring is a slog.Handler that keeps records of level info and above, and hands
// all on.
type Ring struct {
	next  slog.Handler
	attrs string // of With, as text
	group string
	kept  *kept
}

// kept is shared by a Ring and those derived from it.
type kept struct {
	mu     sync.Mutex
	events []agentapi.Event
	last   uint64
}

// New returns a Ring before another handler.
func New(next slog.Handler) *Ring { return &Ring{next: next, kept: &kept{}} }

// Enabled tells whether a record of the level goes anywhere.
func (r *Ring) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || r.next.Enabled(ctx, level)
}

// Handle keeps a record and hands it on.
func (r *Ring) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelInfo {
		var b strings.Builder
		b.WriteString(r.attrs)
		record.Attrs(func(a slog.Attr) bool {
			write(&b, r.group, a)
			return true
		})
		r.kept.add(agentapi.Event{Time: record.Time, Level: record.Level.String(), Text: record.Message, Details: strings.TrimSpace(b.String())})
	}
	if !r.next.Enabled(ctx, record.Level) {
		return nil
	}
	return r.next.Handle(ctx, record)
}

func write(b *strings.Builder, group string, a slog.Attr) {
	b.WriteString(" " + group + a.Key + "=" + a.Value.Resolve().String())
}

// WithAttrs returns a Ring that keeps in the same place.
func (r *Ring) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *r
	var b strings.Builder
	b.WriteString(r.attrs)
	for _, a := range attrs {
		write(&b, r.group, a)
	}
	out.attrs, out.next = b.String(), r.next.WithAttrs(attrs)
	return &out
}

// WithGroup returns a Ring that keeps in the same place.
func (r *Ring) WithGroup(name string) slog.Handler {
	out := *r
	out.group, out.next = r.group+name+".", r.next.WithGroup(name)
	return &out
}

func (k *kept) add(e agentapi.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	e.Number = k.last
	if len(k.events) == room {
		k.events = append(k.events[:0], k.events[1:]...)
	}
	k.events = append(k.events, e)
}

// List returns the events with a number above after, the oldest first.
func (r *Ring) List(_ context.Context, after agentapi.EventsAfter) ([]agentapi.Event, error) {
	r.kept.mu.Lock()
	defer r.kept.mu.Unlock()
	out := []agentapi.Event{}
	for _, e := range r.kept.events {
		if e.Number > after.Number {
			out = append(out, e)
		}
	}
	return out, nil
}
