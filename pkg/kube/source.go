// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Run implements source.Source. It goes on for as long as it takes to reach an
// API server. A kind that the server doesn't know or doesn't let us read is a
// Problem, and never Synced until that changes.
func (c *Client) Run(ctx context.Context, kinds []source.Kind, emit func(source.Event)) error {
	var mu sync.Mutex
	locked := func(ev source.Event) {
		mu.Lock()
		defer mu.Unlock()
		emit(ev)
	}
	reflectors := make([]*cache.Reflector, 0, len(kinds))
	for _, kind := range source.Distinct(kinds) {
		r, err := c.reflector(kind, locked)
		if err != nil {
			return err
		}
		reflectors = append(reflectors, r)
	}
	// What goes wrong is told by the watchers below, once, not at each attempt.
	ctx = klog.NewContext(ctx, logr.Discard())
	var all sync.WaitGroup
	for _, r := range reflectors {
		all.Go(func() { r.RunWithContext(ctx) })
	}
	all.Wait()
	return nil
}

func (c *Client) reflector(kind source.Kind, emit func(source.Event)) (*cache.Reflector, error) {
	t, client, err := c.clientFor(kind)
	if err != nil {
		return nil, err
	}
	w := &watcher{client: client, resource: t.Resource, kind: kind, emit: emit, log: func(err error) { c.opts.Log.Warn("watch objects", "kind", kind, "err", err) }}
	if kind == source.KindPod && c.opts.PodsOfNode != "" {
		w.fields = fields.OneTermEqualSelector("spec.nodeName", c.opts.PodsOfNode).String()
	}
	store := newCollector(kind, emit)
	if kind == source.KindEndpointSlice {
		store.learn = c.servers.learn
	}
	lw := &cache.ListWatch{ListWithContextFunc: w.list, WatchFuncWithContext: w.watch}
	return cache.NewReflectorWithOptions(lw, t.New(), store, cache.ReflectorOptions{
		Name:    string(kind),
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Cap: 5 * time.Second, Steps: 6, Factor: 2, Jitter: 0.5},
	}), nil
}

// watcher lists and watches one kind and tells what is in the way of it.
type watcher struct {
	client   *rest.RESTClient
	resource string
	fields   string
	kind     source.Kind
	emit     func(source.Event)
	log      func(error)
	told     string // the error told last; used by the reflector's goroutine alone
}

func (w *watcher) request(opts *metav1.ListOptions) *rest.Request {
	opts.FieldSelector = w.fields
	return w.client.Get().Resource(w.resource).VersionedParams(opts, metav1.ParameterCodec)
}

func (w *watcher) list(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	list, err := w.request(&opts).Do(ctx).Get()
	w.tell(ctx, err)
	return list, err
}

func (w *watcher) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	request := w.request(&opts)
	if opts.TimeoutSeconds != nil {
		request = request.Timeout(time.Duration(*opts.TimeoutSeconds) * time.Second)
	}
	events, err := request.Watch(ctx)
	w.tell(ctx, err)
	return events, err
}

// tell reports an error that isn't the same as the last: as a Problem if it is
// about the kind, else to the log.
func (w *watcher) tell(ctx context.Context, err error) {
	switch {
	case err == nil:
		w.told = ""
		return
	case ctx.Err() != nil || err.Error() == w.told || apierrors.IsResourceExpired(err) || apierrors.IsInvalid(err):
		return
	}
	w.told = err.Error()
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		why := strings.TrimSuffix(err.Error(), " (get "+w.resource+")")
		w.emit(source.Event{Op: source.Problem, Kind: w.kind, Err: fmt.Errorf("watch %s: %s", w.kind, why)})
		return
	}
	w.log(err)
}
