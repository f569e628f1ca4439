// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// problem is something that could not be used or done.
type problem struct {
	text  string
	since time.Time
}

// problem notes or, with nil, clears what is wrong with an object. It is logged
// when it appears and when it is over, not each time it is met again.
func (r *Reconciler) problem(object string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setProblem(object, err)
}

// Problem notes what is wrong with something beside the reconciler, or that it
// is well again.
func (r *Reconciler) Problem(object string, err error) { r.problem(object, err) }

func (r *Reconciler) setProblem(object string, err error) {
	old, had := r.problems[object]
	switch {
	case err == nil && had:
		delete(r.problems, object)
		r.Log.Info("solved", "object", object)
	case err != nil && (!had || old.text != err.Error()):
		r.problems[object] = problem{err.Error(), time.Now()}
		r.Log.Warn("problem", "object", object, "err", err)
	}
}

// problemGroup replaces all problems of objects whose name begins with prefix.
func (r *Reconciler) problemGroup(prefix string, errs map[string]error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for object := range r.problems {
		if _, still := errs[object]; strings.HasPrefix(object, prefix) && !still {
			r.setProblem(object, nil)
		}
	}
	for object, err := range errs {
		r.setProblem(object, err)
	}
}

// Problems lists what is wrong at present.
func (r *Reconciler) Problems() []agentapi.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]agentapi.Problem, 0, len(r.problems))
	for object, p := range r.problems {
		list = append(list, agentapi.Problem{Object: object, Text: p.text, Since: p.since})
	}
	slices.SortFunc(list, func(a, b agentapi.Problem) int { return cmp.Compare(a.Object, b.Object) })
	return list
}

// problemName names what a source's problem is about: the object, else what its
// error begins with, which is a file or a kind.
func problemName(ev source.Event) string {
	if ev.Key != (source.Key{}) {
		return "source " + string(ev.Kind) + " " + ev.Key.String()
	}
	if ev.Err == nil {
		return "source"
	}
	origin, _, _ := strings.Cut(ev.Err.Error(), ": ")
	return "source " + origin
}
