// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Recorder writes Kubernetes events about objects: what people see in kubectl
// describe. The same said again within ten minutes counts up the first event.
// Recording never blocks; under a flood events are left out.
type Recorder struct {
	client *Client
	host   string
	queue  chan note
	recent map[note]*corev1.Event // used by Run alone
}

// note is what an event says.
type note struct {
	object                corev1.ObjectReference
	kind, reason, message string
	shared                bool // others may say it too
}

// again is how long an event is counted up instead of written anew.
const again = 10 * time.Minute

// Recorder returns a recorder for events seen on host. Its Run must be started.
func (c *Client) Recorder(host string) *Recorder {
	return &Recorder{client: c, host: host, queue: make(chan note, 64), recent: map[note]*corev1.Event{}}
}

// Event records something about an object; eventType is corev1.EventTypeNormal
// or corev1.EventTypeWarning, reason a word in CamelCase.
func (r *Recorder) Event(obj source.Object, eventType, reason, message string) {
	r.record(obj, note{kind: eventType, reason: reason, message: message})
}

// Tell is Event for what several nodes find: those that say the same of an
// object count up one event.
func (r *Recorder) Tell(obj source.Object, eventType, reason, message string) {
	r.record(obj, note{kind: eventType, reason: reason, message: message, shared: true})
}

func (r *Recorder) record(obj source.Object, n note) {
	kind, err := source.KindOf(obj)
	if err != nil {
		return
	}
	t, err := source.TypeOf(kind)
	if err != nil {
		return
	}
	n.object = corev1.ObjectReference{
		APIVersion: t.Version.String(), Kind: string(kind),
		Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(),
	}
	select {
	case r.queue <- n:
	default:
	}
}

// Run writes events until ctx ends. One that can't be written is logged and
// given up.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-r.queue:
			if err := r.write(ctx, n, time.Now()); err != nil && ctx.Err() == nil {
				r.client.opts.Log.Warn("record event", "reason", n.reason, "object", n.object.Name, "err", err)
			}
		}
	}
}

func (r *Recorder) write(ctx context.Context, n note, now time.Time) error {
	for old, ev := range r.recent {
		if now.Sub(ev.LastTimestamp.Time) > again {
			delete(r.recent, old)
		}
	}
	if ev := r.recent[n]; ev != nil {
		return r.countUp(ctx, ev, now)
	}
	ev := r.newEvent(n, now)
	client := r.client.clients[corev1.SchemeGroupVersion]
	err := client.Post().Namespace(ev.Namespace).Resource("events").Body(ev).Do(ctx).Error()
	if n.shared && apierrors.IsAlreadyExists(err) {
		if err = client.Get().Namespace(ev.Namespace).Resource("events").Name(ev.Name).Do(ctx).Into(ev); err == nil {
			err = r.countUp(ctx, ev, now)
		}
	}
	if err != nil {
		return err
	}
	r.recent[n] = ev
	return nil
}

// name is the event's own: that of an event that others may make too follows
// from what it says.
func (n note) name(now time.Time) string {
	if !n.shared {
		return fmt.Sprintf("%s.%x", n.object.Name, now.UnixNano())
	}
	hash := fnv.New64a()
	for _, part := range []string{string(n.object.UID), n.kind, n.reason, n.message} {
		fmt.Fprintf(hash, "%q", part)
	}
	return fmt.Sprintf("%s.%x", n.object.Name, hash.Sum64())
}

func (r *Recorder) newEvent(n note, now time.Time) *corev1.Event {
	namespace := n.object.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events on cluster-scoped objects go
	}
	return &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: n.name(now)},
		InvolvedObject: n.object,
		Type:           n.kind, Reason: n.reason, Message: n.message,
		Source:         corev1.EventSource{Component: r.client.opts.Component, Host: r.host},
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now), Count: 1,
		ReportingController: r.client.opts.Component, ReportingInstance: r.host,
	}
}

func (r *Recorder) countUp(ctx context.Context, ev *corev1.Event, now time.Time) error {
	ev.Count++
	ev.LastTimestamp = metav1.NewTime(now)
	body := fmt.Appendf(nil, `{"count":%d,"lastTimestamp":%q}`, ev.Count, now.UTC().Format(time.RFC3339))
	client := r.client.clients[corev1.SchemeGroupVersion]
	return client.Patch(types.MergePatchType).Namespace(ev.Namespace).Resource("events").Name(ev.Name).Body(body).Do(ctx).Error()
}
