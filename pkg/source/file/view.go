// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// entry is one object of a view: what a file says, and the status that the
// controller gave it, if any.
type entry struct {
	document
	status source.Object // its status is in force instead of the object's own
}

// problem is something wrong, with the object it concerns as far as known.
type problem struct {
	origin string
	ref    ref
	err    error
}

// view is all that the two folders say at one time.
type view struct {
	objects  map[ref]entry
	problems []problem
}

// newView brings the folders together. Of objects defined twice the first is in
// force, by file name; those of the objects folder before those of the status
// folder.
func newView(objects, status *folder) view {
	v := view{objects: map[ref]entry{}}
	for _, name := range objects.names() {
		v.add(objects.files[name])
	}
	var statuses []string
	for _, name := range status.names() {
		if strings.HasSuffix(name, statusSuffix) {
			statuses = append(statuses, name)
			continue
		}
		v.add(status.files[name])
	}
	for _, name := range statuses {
		v.addStatus(status.files[name])
	}
	return v
}

func (v *view) add(c *content) {
	for _, doc := range c.docs {
		if doc.err != nil {
			v.problems = append(v.problems, problem{doc.origin, doc.ref, fmt.Errorf("%s: %w", doc.origin, doc.err)})
		}
	}
	for _, doc := range c.good() {
		first, ok := v.objects[doc.ref]
		if !ok {
			v.objects[doc.ref] = entry{document: doc}
			continue
		}
		if !slices.ContainsFunc(c.kept, func(k document) bool { return k.ref == doc.ref }) {
			err := fmt.Errorf("%s: %s is defined in %s already, which is in force", doc.origin, doc.ref, first.origin)
			v.problems = append(v.problems, problem{doc.origin, doc.ref, err})
		}
	}
}

func (v *view) addStatus(c *content) {
	for _, doc := range c.docs {
		if doc.err != nil {
			v.problems = append(v.problems, problem{doc.origin, ref{}, fmt.Errorf("%s: %w", doc.origin, doc.err)})
		}
	}
	for _, doc := range c.good() {
		if e, ok := v.objects[doc.ref]; ok {
			e.status = doc.object
			v.objects[doc.ref] = e
		}
	}
}

// merged returns the object with the status that is in force.
func (e entry) merged() source.Object {
	if e.status == nil {
		return e.object
	}
	obj, ok := e.object.DeepCopyObject().(source.Object)
	if !ok {
		return e.object
	}
	from := reflect.ValueOf(e.status).Elem().FieldByName("Status")
	to := reflect.ValueOf(obj).Elem().FieldByName("Status")
	if from.IsValid() && to.IsValid() {
		to.Set(from)
	}
	return obj
}
