// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// trustOwn is how long our own write counts before what the source says, if
// the source doesn't show it by then.
const trustOwn = time.Minute

// recordWriter writes records that another controller may have changed since we
// read them: one that was taken for dead goes on where it stood still. It fails
// then, and we look again.
type recordWriter interface {
	source.Writer
	// PutVersion makes an object or, if it has a resource version, changes the
	// one of that version. The object has its new version then.
	PutVersion(ctx context.Context, obj source.Object) error
	// DeleteVersion removes an object of that version.
	DeleteVersion(ctx context.Context, obj source.Object) error
}

// recent are the objects of a kind that we alone write: as the source shows
// them, but for those that we wrote and it doesn't show yet. Nothing must look
// free because the stream lags behind our own writes.
type recent[T source.Object] struct {
	store  *source.Store
	writer recordWriter
	kind   source.Kind
	same   func(a, b T) bool
	own    map[source.Key]ownWrite[T]
}

type ownWrite[T source.Object] struct {
	obj  T
	gone bool
	at   time.Time
}

func newRecent[T source.Object](store *source.Store, writer recordWriter, kind source.Kind, same func(a, b T) bool) *recent[T] {
	return &recent[T]{store: store, writer: writer, kind: kind, same: same, own: map[source.Key]ownWrite[T]{}}
}

// list returns all objects by name.
func (r *recent[T]) list(now time.Time) []T {
	r.settle(now)
	var objects []T
	for obj := range source.All[T](r.store, r.kind) {
		if _, ok := r.own[source.KeyOf(obj)]; !ok {
			objects = append(objects, obj)
		}
	}
	for _, w := range r.own {
		if !w.gone {
			objects = append(objects, w.obj)
		}
	}
	slices.SortFunc(objects, func(a, b T) int { return source.KeyOf(a).Compare(source.KeyOf(b)) })
	return objects
}

// settle forgets own writes that the source shows by now.
func (r *recent[T]) settle(now time.Time) {
	for key, w := range r.own {
		shown, ok := source.Get[T](r.store, r.kind, key)
		if done := !ok && w.gone || ok && !w.gone && r.same(shown, w.obj); done || now.Sub(w.at) > trustOwn {
			delete(r.own, key)
		}
	}
}

// last returns the object as the next plan is to see it.
func (r *recent[T]) last(key source.Key) (T, bool) {
	if w, ok := r.own[key]; ok {
		return w.obj, !w.gone
	}
	return source.Get[T](r.store, r.kind, key)
}

// put makes an object durable, in place of what there was at the last look.
func (r *recent[T]) put(ctx context.Context, obj T, now time.Time) error {
	key := source.KeyOf(obj)
	if was, ok := r.last(key); ok {
		obj.SetResourceVersion(was.GetResourceVersion())
	}
	if err := r.writer.PutVersion(ctx, obj); err != nil {
		return fmt.Errorf("write %s %s: %w", r.kind, key, err)
	}
	r.own[key] = ownWrite[T]{obj: obj, at: now}
	return nil
}

// remove deletes an object as it was at the last look.
func (r *recent[T]) remove(ctx context.Context, key source.Key, now time.Time) error {
	was, ok := r.last(key)
	if !ok {
		return nil
	}
	if err := r.writer.DeleteVersion(ctx, was); err != nil {
		return fmt.Errorf("delete %s %s: %w", r.kind, key, err)
	}
	r.own[key] = ownWrite[T]{gone: true, at: now}
	return nil
}
