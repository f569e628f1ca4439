// SPDX-License-Identifier: Apache-2.0

// Package status shows people what the controller did and what its nodes
// report: in the statuses of Services, IPAllocations, IPPools and NodeRoutes,
// and as events on Services. Each fact is told once, for as long as it is one.
package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// repeatAfter is when a status that the source doesn't show is written again.
const repeatAfter = 5 * time.Second

// Recorder shows people what happened to an object.
type Recorder interface {
	Event(obj source.Object, eventType, reason, message string)
}

// Writer writes statuses where they differ from what objects show already.
type Writer struct {
	// Net is what the nodes report, as the next statuses are judged by it.
	Net network.View

	store   *source.Store
	writer  source.Writer
	events  Recorder
	log     *slog.Logger
	written map[object]written
	told    map[told]string
	missed  bool // an object was not there
}

type object struct {
	kind source.Kind
	key  source.Key
}

// told is what is told of an object: the latest of each kind.
type told struct {
	object
	what string
}

type written struct {
	status any
	at     time.Time
}

// New returns a writer that has written nothing.
func New(store *source.Store, writer source.Writer, events Recorder, log *slog.Logger) *Writer {
	return &Writer{store: store, writer: writer, events: events, log: log, written: map[object]written{}, told: map[told]string{}}
}

// Begin forgets what was missed, and what was told of Services that are gone.
func (w *Writer) Begin() {
	w.missed = false
	for t := range w.told {
		if _, ok := source.Get[*corev1.Service](w.store, t.kind, t.key); !ok {
			delete(w.told, t)
		}
	}
}

// Missed tells whether an object wasn't there whose status was to be written:
// gone, or the writer sees it later than the source.
func (w *Writer) Missed() bool { return w.missed }

// Update writes obj's status unless the source shows it already, or it was
// written just now and the source is only late.
func (w *Writer) Update(ctx context.Context, kind source.Kind, have, want any, obj source.Object) error {
	key := object{kind, source.KeyOf(obj)}
	if equality.Semantic.DeepEqual(have, want) {
		delete(w.written, key)
		return nil
	}
	last, ok := w.written[key]
	if ok && time.Since(last.at) < repeatAfter && equality.Semantic.DeepEqual(last.status, want) {
		return nil
	}
	if err := w.writer.UpdateStatus(ctx, obj); err != nil {
		if errors.Is(err, source.ErrNotFound) {
			w.log.Info("status of what is not there", "kind", kind, "object", key.key.String())
			w.missed = true
			return nil
		}
		return fmt.Errorf("write status of %s %s: %w", kind, key.key, err)
	}
	w.written[key] = written{want, time.Now()}
	return nil
}

// Warn tells Services something that happened once.
func (w *Writer) Warn(names []loadbalancer.Name, reason, message string) {
	for _, name := range names {
		w.log.Warn(message, "service", name.String())
		if svc, ok := source.Get[*corev1.Service](w.store, source.KindService, source.Key(name)); ok {
			w.events.Event(svc, corev1.EventTypeWarning, reason, message)
		}
	}
}

// fact tells a Service what is so, unless that was told last of this kind; an
// empty message is that nothing is so any more. It returns whether it is news.
// What an earlier controller told isn't known: fresh is whether the Service's
// own status shows that it is news.
func (w *Writer) fact(svc *corev1.Service, what, eventType, reason, message string, fresh bool) bool {
	t := told{object{source.KindService, source.KeyOf(svc)}, what}
	last, known := w.told[t]
	if known && last == message || !known && !fresh {
		return false
	}
	w.told[t] = message
	if message == "" {
		return known || fresh
	}
	level := slog.LevelInfo
	if eventType == corev1.EventTypeWarning {
		level = slog.LevelWarn
	}
	w.log.Log(context.Background(), level, message, "service", t.key.String(), "reason", reason)
	w.events.Event(svc, eventType, reason, message)
	return true
}

// OneLine writes an error in one line.
func OneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
