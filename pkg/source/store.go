// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Store holds the latest version of each object of a stream. Safe for use by
// several goroutines. Objects handed out are shared: DeepCopy before changing.
type Store struct {
	mu    sync.RWMutex
	kinds map[Kind]*shelf
}

// shelf is what a Store has of one kind.
type shelf struct {
	objects map[Key]Object
	synced  bool
	// unconfirmed are the objects from a snapshot that the source hasn't named
	// yet; those left when it is synced were deleted while we were away.
	unconfirmed map[Key]struct{}
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{kinds: make(map[Kind]*shelf)}
}

// Apply takes an event in and tells whether the store's content or a kind's
// synced state changed by it. A Problem changes nothing.
func (s *Store) Apply(ev Event) bool {
	return len(s.Changes(ev)) > 0
}

// Changes takes an event in and returns what it changed, as events: none for
// an object that is the same as before; and for a kind's first Synced, a Delete
// for each object that only the snapshot knew, before the Synced itself. A
// Problem changes nothing; an object that it names is still there, so what the
// snapshot has of it stays.
func (s *Store) Changes(ev Event) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shelf(ev.Kind)
	switch ev.Op {
	case Problem:
		delete(sh.unconfirmed, ev.Key)
	case Upsert:
		return sh.upsert(ev)
	case Delete:
		return sh.delete(ev)
	case Synced:
		return sh.sync(ev)
	}
	return nil
}

func (s *Store) shelf(kind Kind) *shelf {
	sh := s.kinds[kind]
	if sh == nil {
		sh = &shelf{objects: make(map[Key]Object)}
		s.kinds[kind] = sh
	}
	return sh
}

func (sh *shelf) upsert(ev Event) []Event {
	delete(sh.unconfirmed, ev.Key)
	old, ok := sh.objects[ev.Key]
	sh.objects[ev.Key] = ev.Object
	if ok && sameObject(old, ev.Object) {
		return nil
	}
	return []Event{ev}
}

func (sh *shelf) delete(ev Event) []Event {
	delete(sh.unconfirmed, ev.Key)
	old, ok := sh.objects[ev.Key]
	if !ok {
		return nil
	}
	delete(sh.objects, ev.Key)
	ev.Object = old
	return []Event{ev}
}

func (sh *shelf) sync(ev Event) []Event {
	gone := slices.SortedFunc(maps.Keys(sh.unconfirmed), Key.Compare)
	sh.unconfirmed = nil
	var out []Event
	for _, key := range gone {
		out = append(out, sh.delete(Event{Op: Delete, Kind: ev.Kind, Key: key})...)
	}
	if !sh.synced {
		sh.synced = true
		out = append(out, ev)
	}
	return out
}

// sameObject tells whether b brings nothing new over a. The API server's
// resource version settles it where there is one; else empty and absent lists are
// the same, as they are to every reader.
func sameObject(a, b Object) bool {
	if av := a.GetResourceVersion(); av != "" && a.GetUID() == b.GetUID() && av == b.GetResourceVersion() {
		return true
	}
	return equality.Semantic.DeepEqual(a, b)
}

// Synced tells whether the source has said Synced for all the given kinds since
// the process began; what a snapshot brought doesn't count.
func (s *Store) Synced(kinds ...Kind) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, kind := range kinds {
		if sh := s.kinds[kind]; sh == nil || !sh.synced {
			return false
		}
	}
	return true
}

// Len returns the number of objects of a kind.
func (s *Store) Len(kind Kind) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sh := s.kinds[kind]; sh != nil {
		return len(sh.objects)
	}
	return 0
}

// Get returns the object of that kind and key, if there is one and it is a T.
func Get[T Object](s *Store, kind Kind, key Key) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var none T
	sh := s.kinds[kind]
	if sh == nil {
		return none, false
	}
	obj, ok := sh.objects[key].(T)
	return obj, ok
}

// All goes over the objects of a kind that are a T, in no order, as they were
// when it began: the loop may use the store, as a reader that waits for a
// writer that waits for the loop would never end.
func All[T Object](s *Store, kind Kind) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, obj := range s.objects(kind) {
			if t, ok := obj.(T); ok && !yield(t) {
				return
			}
		}
	}
}

func (s *Store) objects(kind Kind) []Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sh := s.kinds[kind]; sh != nil {
		return slices.Collect(maps.Values(sh.objects))
	}
	return nil
}

// List returns the objects of a kind that are a T, by namespace and name.
func List[T Object](s *Store, kind Kind) []T {
	return slices.SortedFunc(All[T](s, kind), func(a, b T) int { return compareNames(a, b) })
}

func compareNames(a, b metav1.Object) int {
	return cmp.Or(
		cmp.Compare(a.GetNamespace(), b.GetNamespace()),
		cmp.Compare(a.GetName(), b.GetName()),
	)
}
