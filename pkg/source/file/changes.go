// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// inForce is an object as it was emitted, and what it was made of. An object of
// which only a problem was told has none.
type inForce struct {
	base, status, object source.Object
}

// apply emits the differences between what the folders say and what is in
// force: objects in the order of the kinds asked for, then what is gone, then
// problems.
func (r *run) apply() {
	v := newView(r.objects, r.status)
	problems := map[string]problem{}
	for _, p := range v.problems {
		if p.ref.kind == "" || slices.Contains(r.kinds, p.ref.kind) {
			problems[p.origin] = p
			r.claim(p.ref)
		}
	}
	for _, name := range r.sorted(maps.Keys(v.objects)) {
		e := v.objects[name]
		if err := r.upsert(name, e); err != nil {
			problems[e.origin] = problem{e.origin, name, fmt.Errorf("%s: %w", e.origin, err)}
		}
	}
	r.remove(v, problems)
	r.tell(problems)
}

// claim remembers that an object was spoken of, so that its end is told even if
// it was never in force here.
func (r *run) claim(name ref) {
	if name != (ref{}) && r.force[name] == nil {
		r.force[name] = &inForce{}
	}
}

// sorted returns the names of the kinds asked for, in the order of the kinds.
func (r *run) sorted(names func(func(ref) bool)) []ref {
	order := make(map[source.Kind]int, len(r.kinds))
	for i, kind := range r.kinds {
		order[kind] = i
	}
	var out []ref
	for name := range names {
		if _, ok := order[name.kind]; ok {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b ref) int {
		if a.kind != b.kind {
			return order[a.kind] - order[b.kind]
		}
		return a.key.Compare(b.key)
	})
	return out
}

// upsert emits an object that is new or differs. What may not change stays as
// it was, with an error.
func (r *run) upsert(name ref, e entry) error {
	was := r.force[name]
	if was == nil {
		was = &inForce{}
	}
	if was.base == e.object && was.status == e.status {
		return nil
	}
	if was.base != nil && was.base != e.object {
		if err := source.Check(e.object, was.base); err != nil {
			return err
		}
	}
	now := &inForce{e.object, e.status, e.merged()}
	r.force[name] = now
	if was.object != nil && equality.Semantic.DeepEqual(was.object, now.object) {
		return nil
	}
	r.emit(source.Event{Op: source.Upsert, Kind: name.kind, Key: name.key, Object: now.object})
	return nil
}

// remove emits the end of what the folders have no more, and don't speak of.
func (r *run) remove(v view, problems map[string]problem) {
	spoken := map[ref]bool{}
	for _, p := range problems {
		spoken[p.ref] = true
	}
	for _, name := range r.sorted(maps.Keys(r.force)) {
		if _, ok := v.objects[name]; ok || spoken[name] {
			continue
		}
		was := r.force[name]
		delete(r.force, name)
		r.emit(source.Event{Op: source.Delete, Kind: name.kind, Key: name.key, Object: was.object})
	}
}

// tell emits the problems that are new, and logs those that are no more.
func (r *run) tell(problems map[string]problem) {
	told := make(map[string]string, len(problems))
	for _, origin := range slices.Sorted(maps.Keys(problems)) {
		p := problems[origin]
		told[origin] = p.err.Error()
		if r.problems[origin] != told[origin] {
			r.emit(source.Event{Op: source.Problem, Kind: p.ref.kind, Key: p.ref.key, Err: p.err})
		}
	}
	for origin := range r.problems {
		if _, ok := told[origin]; !ok {
			r.Log.Info("object can be read again", "origin", origin)
		}
	}
	r.problems = told
}
