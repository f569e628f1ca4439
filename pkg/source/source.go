// SPDX-License-Identifier: Apache-2.0

// Package source is the one stream of objects that agent and controller work
// from, whether they come from the Kubernetes API (pkg/kube) or from a folder
// of YAML files (source/file).
//
// A Source emits Events; a Store collects them, tells what really changed and
// outlives the process as a snapshot on disk. What the objects mean is not
// decided here: source/convert turns them into service, policy and ipam values.
//
//	store, err := source.LoadStore("/var/lib/patchbay/snapshot")
//	…
//	err = src.Run(ctx, kinds, func(ev source.Event) {
//		for _, change := range store.Changes(ev) { … }
//	})
package source

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is any Kubernetes object or one of our own: typed, with metadata.
// Objects that have been emitted are shared and must not be changed; DeepCopy
// them first. Their TypeMeta is empty: the event's Kind says what they are.
type Object interface {
	runtime.Object
	metav1.Object
}

// Key names an object within its kind. Namespace is empty for cluster-scoped
// kinds.
type Key struct{ Namespace, Name string }

// KeyOf returns the key of obj.
func KeyOf(obj metav1.Object) Key {
	return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// String returns "namespace/name", or the name alone for cluster-scoped kinds.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Compare orders keys by namespace, then name.
func (k Key) Compare(other Key) int {
	switch {
	case k.Namespace < other.Namespace:
		return -1
	case k.Namespace > other.Namespace:
		return 1
	case k.Name < other.Name:
		return -1
	case k.Name > other.Name:
		return 1
	}
	return 0
}

// Op says what happened in an Event.
type Op uint8

// The operations of a stream.
const (
	Upsert  Op = iota + 1 // Object is new, or has a new value
	Delete                // the object Kind, Key is gone; Object is its last value if known
	Synced                // all that existed of Kind at the start has been emitted
	Problem               // Err says what could not be read; Kind and Key as far as known
)

// String returns the operation's name in lower case.
func (o Op) String() string {
	switch o {
	case Upsert:
		return "upsert"
	case Delete:
		return "delete"
	case Synced:
		return "synced"
	case Problem:
		return "problem"
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Event is one step of a stream.
type Event struct {
	Op     Op
	Kind   Kind
	Key    Key
	Object Object // for Upsert, and for Delete where known
	Err    error  // for Problem
}

// Source is a stream of objects. Implemented by source/file and pkg/kube, which
// both pass the suite in source/sourcetest.
type Source interface {
	// Run emits what exists of the given kinds as Upserts, then one Synced per
	// distinct kind, then changes as they happen, until ctx ends (nil is returned) or the
	// source as a whole can't go on (an error that says why). Emit is called
	// from one goroutine at a time and is never called after Run returned.
	//
	// After a reconnect only differences are emitted, and no second Synced. An
	// object that can't be read or isn't valid becomes a Problem which names
	// it; its last good version stays in force and the rest goes on. A Problem
	// is emitted once when it appears, not at each look.
	Run(ctx context.Context, kinds []Kind, emit func(Event)) error
}

// ErrNotFound is what a Writer returns for an object that must be there and
// isn't.
var ErrNotFound = errors.New("no such object")

// Writer takes our outputs: to the Kubernetes API, or as YAML files to the
// status folder. All methods return only when the change is durable, and may be
// called from several goroutines.
type Writer interface {
	// Apply creates the object or replaces its spec, labels and annotations.
	Apply(ctx context.Context, obj Object) error
	// UpdateStatus replaces the status of an object. Returns an error that wraps
	// ErrNotFound if there is no such object.
	UpdateStatus(ctx context.Context, obj Object) error
	// Delete removes the object; one that isn't there is no error.
	Delete(ctx context.Context, kind Kind, key Key) error
}
