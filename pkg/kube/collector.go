// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"github.com/patchbay-net/patchbay/pkg/kube/trim"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// collector takes what a reflector brings of one kind and emits what differs
// from before. The objects are those that were emitted, so they are in memory
// once. It is used by the reflector's goroutine alone.
type collector struct {
	kind     source.Kind
	emit     func(source.Event)
	learn    func([]*discoveryv1.EndpointSlice) // told of slices that name the API servers
	known    map[source.Key]source.Object
	problems map[source.Key]string // of objects that aren't valid, as told
	synced   bool
}

func newCollector(kind source.Kind, emit func(source.Event)) *collector {
	return &collector{
		kind: kind, emit: emit, learn: func([]*discoveryv1.EndpointSlice) {},
		known: map[source.Key]source.Object{}, problems: map[source.Key]string{},
	}
}

var _ cache.TransformingStore = (*collector)(nil)

// Transformer makes the reflector's own store hold trimmed objects too.
func (c *collector) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(source.Object); ok {
			trim.Object(o)
		}
		return obj, nil
	}
}

// Add implements cache.ReflectorStore.
func (c *collector) Add(obj any) error { return c.Update(obj) }

// Update implements cache.ReflectorStore.
func (c *collector) Update(obj any) error {
	o, ok := obj.(source.Object)
	if !ok {
		return fmt.Errorf("%s: unexpected %T", c.kind, obj)
	}
	c.upsert(o)
	c.note(o)
	return nil
}

// Delete implements cache.ReflectorStore.
func (c *collector) Delete(obj any) error {
	o, ok := obj.(source.Object)
	if !ok {
		return fmt.Errorf("%s: unexpected %T", c.kind, obj)
	}
	c.remove(source.KeyOf(o))
	c.note(o)
	return nil
}

// Replace implements cache.ReflectorStore: at the start, and again whenever the
// reflector had to list anew.
func (c *collector) Replace(list []any, _ string) error {
	seen := make(map[source.Key]bool, len(list))
	for _, obj := range list {
		o, ok := obj.(source.Object)
		if !ok {
			return fmt.Errorf("%s: unexpected %T", c.kind, obj)
		}
		seen[source.KeyOf(o)] = true
		c.upsert(o)
	}
	for _, key := range c.keys() {
		if !seen[key] {
			c.remove(key)
		}
	}
	if !c.synced {
		c.synced = true
		c.emit(source.Event{Op: source.Synced, Kind: c.kind})
	}
	c.learn(c.ownSlices())
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (c *collector) Resync() error { return nil }

// keys returns all objects spoken of.
func (c *collector) keys() []source.Key {
	keys := slices.Collect(maps.Keys(c.known))
	for key := range c.problems {
		if c.known[key] == nil {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, source.Key.Compare)
	return keys
}

// upsert emits an object that is new or differs in more than its version. Of a
// record the version is news: it is changed by that.
func (c *collector) upsert(obj source.Object) {
	trim.Object(obj)
	key := source.KeyOf(obj)
	if err := source.Check(obj, nil); err != nil {
		if c.problems[key] != err.Error() {
			c.problems[key] = err.Error()
			c.emit(source.Event{Op: source.Problem, Kind: c.kind, Key: key, Err: err})
		}
		return
	}
	delete(c.problems, key)
	old := c.known[key]
	c.known[key] = obj
	record := c.kind == source.KindIPAllocation || c.kind == source.KindIPBlock
	if old == nil || !sameBut(old, obj) || record && old.GetResourceVersion() != obj.GetResourceVersion() {
		c.emit(source.Event{Op: source.Upsert, Kind: c.kind, Key: key, Object: obj})
	}
}

// sameBut compares two versions of an object without the version. The new one
// isn't shared yet, so it can lend itself to that.
func sameBut(old, obj source.Object) bool {
	version := obj.GetResourceVersion()
	if version == old.GetResourceVersion() && obj.GetUID() == old.GetUID() {
		return true
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	defer obj.SetResourceVersion(version)
	return equality.Semantic.DeepEqual(old, obj)
}

func (c *collector) remove(key source.Key) {
	old, known := c.known[key]
	_, problem := c.problems[key]
	if !known && !problem {
		return
	}
	delete(c.known, key)
	delete(c.problems, key)
	c.emit(source.Event{Op: source.Delete, Kind: c.kind, Key: key, Object: old})
}

// note passes on what an object says of the API servers.
func (c *collector) note(obj source.Object) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && isOwnSlice(slice) {
		c.learn(c.ownSlices())
	}
}

// ownSlices returns the slices that name the API servers.
func (c *collector) ownSlices() []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, obj := range c.known {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && isOwnSlice(slice) {
			out = append(out, slice)
		}
	}
	return out
}
