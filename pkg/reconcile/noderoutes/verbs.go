// SPDX-License-Identifier: Apache-2.0

package noderoutes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/custom"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Serve adds the operations on routes to the agent's API.
func (r *Routes) Serve(h agentapi.Handler) {
	h[agentapi.OpRoutes] = agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Route, error) { return r.List() })
	h[agentapi.OpRouteAdd] = agentapi.Do(func(_ context.Context, a agentapi.RouteAdd) (agentapi.Route, error) {
		out, err := r.Add(a)
		return out, coded(err)
	})
	h[agentapi.OpRouteRemove] = agentapi.Do(func(ctx context.Context, a agentapi.RouteRemove) ([]agentapi.Route, error) {
		out, err := r.Remove(ctx, a)
		return out, coded(err)
	})
}

// coded gives an error the code that the client sees.
func coded(err error) error {
	switch {
	case errors.Is(err, custom.ErrRefused):
		return agentapi.Errorf(agentapi.CodeInvalid, "%v", err)
	case errors.Is(err, custom.ErrUnknown):
		return agentapi.Errorf(agentapi.CodeUnknown, "%v", err)
	}
	return err
}

// List returns the routes for this node with what became of them.
func (r *Routes) List() ([]agentapi.Route, error) {
	verdicts := r.keeper.List()
	if !r.IsNode { // nobody keeps them
		var err error
		if verdicts, err = r.keeper.Look(); err != nil {
			return nil, err
		}
	}
	out := make([]agentapi.Route, len(verdicts))
	for i, v := range verdicts {
		out[i] = toAPI(v)
	}
	return out, nil
}

// Add puts a route in force on this node, for good, and gives it to all others
// as soon as objects can be written, unless it is for this node only.
func (r *Routes) Add(a agentapi.RouteAdd) (agentapi.Route, error) {
	route, err := parse(a)
	if err != nil {
		return agentapi.Route{}, fmt.Errorf("add route %s over %s: %w", a.Destination, a.Interface, err)
	}
	v, err := r.keeper.Add(custom.Record{Route: route, Everywhere: !a.NodeOnly})
	if err != nil {
		return agentapi.Route{}, err
	}
	r.wake()
	return toAPI(v), nil
}

// Remove takes a route away: on this node, and if it is a NodeRoute, from all.
func (r *Routes) Remove(ctx context.Context, a agentapi.RouteRemove) ([]agentapi.Route, error) {
	route, err := parse(agentapi.RouteAdd{Interface: a.Interface, Destination: a.Destination})
	if err != nil {
		return nil, fmt.Errorf("remove route %s over %s: %w", a.Destination, a.Interface, err)
	}
	records, err := r.keeper.Store.List()
	if err != nil {
		return nil, err
	}
	for _, o := range records {
		if o.Names(route.Interface, route.Dst) && o.Object != "" {
			if err := r.removeObject(ctx, o); err != nil {
				return nil, fmt.Errorf("remove route %s over %s: %w", route.Dst, route.Interface, err)
			}
		}
	}
	gone, err := r.keeper.Remove(route.Interface, route.Dst)
	if err != nil {
		return nil, err
	}
	r.wake()
	out := make([]agentapi.Route, len(gone))
	for i, o := range slices.All(gone) {
		out[i] = toAPI(custom.Verdict{Record: o})
	}
	return out, nil
}

// removeObject removes the NodeRoute that a route is of.
func (r *Routes) removeObject(ctx context.Context, o custom.Record) error {
	switch {
	case r.Writer == nil:
		return fmt.Errorf("%w: NodeRoute %s gives it to all nodes, and no agent runs here that could remove it", custom.ErrRefused, o.Object)
	case r.Folder && o.Object != objectName(o.Route):
		return fmt.Errorf("%w: NodeRoute %s gives it to all nodes; remove it from the folder of objects", custom.ErrRefused, o.Object)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	if err := r.Writer.Delete(ctx, source.KindNodeRoute, source.Key{Name: o.Object}); err != nil {
		return err
	}
	r.remember(o.Object, false)
	return nil
}
