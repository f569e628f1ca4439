// SPDX-License-Identifier: Apache-2.0

// Package noderoutes brings a node's custom routes together: those that
// NodeRoute objects give it and those that were given on the node itself, also
// before there was a cluster. A route given on one node for all becomes a
// NodeRoute as soon as objects can be written. netdev/custom keeps them.
package noderoutes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/custom"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// PartName is the name of the reconciler's part.
const PartName = "routes"

const (
	// lag is how long the source may take to show what was written.
	lag = 30 * time.Second
	// writeTime bounds how long writing an object may take.
	writeTime = 10 * time.Second
)

// Options are what Routes work with.
type Options struct {
	// Path is the store's.
	Path string
	// IsNode: a node's agent asks.
	IsNode bool
	// Cluster are the ranges of pods and Services.
	Cluster []netip.Prefix
	// Writer writes NodeRoutes; nil: there are no objects.
	Writer source.Writer
	// Folder: objects of others are files, which the Writer can't remove.
	Folder bool
}

// Routes are the custom routes of a node. Make them with New.
type Routes struct {
	Options
	// Wake has the part run soon, if set.
	Wake func()
	// Note is told what goes wrong, or with nil that all is well again, if set.
	Note func(error)

	keeper *custom.Keeper

	mu sync.Mutex
	// fresh are NodeRoutes that were written (true) or removed (false) here, and
	// that the source doesn't show so yet.
	fresh map[string]fresh
}

type fresh struct {
	there bool
	until time.Time
}

// New returns the routes stored at a path.
func New(o Options) *Routes {
	r := &Routes{Options: o, fresh: map[string]fresh{}}
	note := func(err error) {
		if r.Note != nil {
			r.Note(err)
		}
	}
	r.keeper = custom.New(custom.Options{
		Store: custom.Store{Path: o.Path, Damaged: note}, IsNode: o.IsNode, Cluster: o.Cluster, Changed: r.wake, Note: note,
	})
	return r
}

func (r *Routes) wake() {
	if r.Wake != nil {
		r.Wake()
	}
}

// Run keeps the routes in force until ctx ends: from the first moment those that
// are stored, whatever the cluster says later.
func (r *Routes) Run(ctx context.Context) error { return r.keeper.Run(ctx) }

// Part follows the NodeRoutes and reports on them.
func (r *Routes) Part() parts.Part {
	return parts.Part{Name: PartName, Kinds: []source.Kind{source.KindNodeRoute}, Early: true, Sync: r.sync, Report: r.report}
}

// sync takes over what the objects say. Until the source has spoken, those that
// it knew before stay.
func (r *Routes) sync(ctx context.Context, v parts.Objects) error {
	known := v.Store.Synced(source.KindNodeRoute)
	objects, undecided := r.selected(v)
	r.settle(v)
	err := r.keeper.Replace(func(now []custom.Record) []custom.Record {
		kept := slices.DeleteFunc(now, func(o custom.Record) bool {
			_, replaced := objects[o.Object]
			return o.Object != "" && (replaced || known && !undecided[o.Object] && !r.isFresh(o.Object, true))
		})
		return slices.AppendSeq(kept, maps.Values(objects))
	})
	if known {
		err = errors.Join(err, r.publish(ctx, v))
	}
	return err
}

// selected are the NodeRoutes for this node by name, and those of which that
// can't be told yet.
func (r *Routes) selected(v parts.Objects) (objects map[string]custom.Record, undecided map[string]bool) {
	objects, undecided = map[string]custom.Record{}, map[string]bool{}
	node, ok := source.Get[*corev1.Node](v.Store, source.KindNode, source.Key{Name: v.Node})
	for _, o := range source.List[*v1alpha1.NodeRoute](v.Store, source.KindNodeRoute) {
		switch route, err := toRoute(&o.Spec); {
		case err != nil || r.isFresh(o.Name, false):
		case o.Spec.NodeSelector != nil && !ok:
			undecided[o.Name] = true
		case o.Spec.NodeSelector == nil || o.Spec.NodeSelector.Matches(node.Labels):
			objects[o.Name] = custom.Record{Route: route, Object: o.Name}
		}
	}
	return objects, undecided
}

// isFresh tells whether an object was written, or removed, here just now.
func (r *Routes) isFresh(name string, there bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.fresh[name]
	return ok && f.there == there && time.Now().Before(f.until)
}

// remember notes what was done to an object until the source shows it.
func (r *Routes) remember(name string, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh[name] = fresh{there, time.Now().Add(lag)}
}

// settle forgets what the source shows by now.
func (r *Routes) settle(v parts.Objects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, f := range r.fresh {
		_, there := source.Get[*v1alpha1.NodeRoute](v.Store, source.KindNodeRoute, source.Key{Name: name})
		if there == f.there {
			delete(r.fresh, name)
		}
	}
}

// publish makes NodeRoutes of the routes that were given here for all nodes.
func (r *Routes) publish(ctx context.Context, v parts.Objects) error {
	if r.Writer == nil {
		return nil
	}
	var errs []error
	for _, given := range r.keeper.List() {
		if !given.Everywhere {
			continue
		}
		name, err := r.publishOne(ctx, given.Route, v)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, r.keeper.Replace(func(now []custom.Record) []custom.Record {
			i := slices.Index(now, given.Record)
			if i < 0 {
				return now
			}
			if slices.Contains(now, custom.Record{Route: given.Route, Object: name}) {
				return slices.Delete(now, i, i+1)
			}
			now[i] = custom.Record{Route: given.Route, Object: name}
			return now
		}))
	}
	return errors.Join(errs...)
}

// publishOne returns the name of the NodeRoute that a route became, or is.
func (r *Routes) publishOne(ctx context.Context, route custom.Route, v parts.Objects) (string, error) {
	for _, o := range source.List[*v1alpha1.NodeRoute](v.Store, source.KindNodeRoute) {
		other, err := toRoute(&o.Spec)
		switch {
		case err != nil || !other.Names(route.Interface, route.Dst):
		case other == route && o.Spec.NodeSelector == nil:
			return o.Name, nil
		default:
			return "", fmt.Errorf("route %s stays this node's own: NodeRoute %s routes the same", route, o.Name)
		}
	}
	obj := toObject(route)
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	if err := r.Writer.Apply(ctx, obj); err != nil {
		return "", fmt.Errorf("give route %s to all nodes: %w", route, err)
	}
	r.remember(obj.Name, true)
	return obj.Name, nil
}

// report says what became of the routes.
func (r *Routes) report(status *v1alpha1.NodeNetworkStateStatus) {
	status.Routes = nil
	for _, verdict := range r.keeper.List() {
		name := verdict.Object
		if name == "" {
			name = "this node's " + objectName(verdict.Route)
		}
		status.Routes = append(status.Routes, v1alpha1.NodeRouteState{
			Name: name, State: v1alpha1.RouteState(verdict.State), Message: verdict.Message,
		})
	}
}
