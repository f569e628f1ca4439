// SPDX-License-Identifier: Apache-2.0

// Package remarks tells the owners of objects what the agent makes of them:
// what it refuses of a Service or its endpoints, and why, becomes an event of
// the object. What is over within moments, as when a Service's slices go after
// it, is not told.
package remarks

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// PartName is the name of the reconciler's part.
const PartName = "remarks"

// Reason is that of the events.
const Reason = "Refused"

const (
	// steady is how long something must be wrong before it is told.
	steady = 2 * time.Second
	// longest is how many bytes of a message an event has room for.
	longest = 1024
)

// Teller records an event of an object. Nodes that say the same of one object
// make one event.
type Teller interface {
	Tell(obj source.Object, eventType, reason, message string)
}

// Remarks hook into the reconciler. Its Part must run.
type Remarks struct {
	Teller Teller // nil: nobody is told
	// Problems lists what is wrong at present; Wake has the part run soon.
	Problems func() []agentapi.Problem
	Wake     func()

	mu   sync.Mutex
	told map[string]string // texts by object
}

// Part is run whenever what is wrong with objects may have changed.
func (r *Remarks) Part() parts.Part {
	return parts.Part{
		Name:  PartName,
		Kinds: []source.Kind{source.KindService, source.KindEndpointSlice, source.KindNode, source.KindIPPool},
		Sync: func(_ context.Context, v parts.Objects) error {
			if r.Teller == nil {
				return nil
			}
			if wait := r.tell(v.Store, time.Now()); wait > 0 {
				time.AfterFunc(wait, r.Wake)
			}
			return nil
		},
	}
}

// tell tells what has been wrong with objects for long enough and wasn't told,
// and returns after what time there may be more, zero for none.
func (r *Remarks) tell(store *source.Store, now time.Time) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := map[string]string{}
	for _, p := range r.Problems() {
		obj, ok := find(store, p.Object)
		switch age := now.Sub(p.Since); {
		case !ok:
		case r.told[p.Object] == p.Text:
			told[p.Object] = p.Text
		case age < steady:
			if left := steady - age; wait == 0 || left < wait {
				wait = left
			}
		default:
			told[p.Object] = p.Text
			r.Teller.Tell(obj, corev1.EventTypeWarning, Reason, message(p.Text))
		}
	}
	r.told = told
	return wait
}

// find returns the object that a problem is about, as the reconciler names it.
func find(store *source.Store, name string) (source.Object, bool) {
	rest, ok := strings.CutPrefix(name, "object ")
	kind, path, _ := strings.Cut(rest, " ")
	if !ok {
		return nil, false
	}
	key := source.Key{Name: path}
	if namespace, name, found := strings.Cut(path, "/"); found {
		key = source.Key{Namespace: namespace, Name: name}
	}
	return source.Get[source.Object](store, source.Kind(kind), key)
}

// message is a problem's text in one line that an event has room for.
func message(text string) string {
	text = strings.ReplaceAll(text, "\n", "; ")
	if len(text) <= longest {
		return text
	}
	const more = " …"
	cut := strings.LastIndex(text[:longest-len(more)], "; ")
	if cut < 0 {
		cut = longest - len(more)
	}
	return strings.ToValidUTF8(text[:cut], "") + more
}
