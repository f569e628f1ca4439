// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// nodeRoutes brings together what the nodes report of each NodeRoute. Only the
// controller writes the object's status: nodes that all did would undo each
// other's in a folder of files.
type nodeRoutes struct {
	store  *source.Store
	status *status.Writer
}

// reconcile writes the status of the NodeRoutes of which there is news.
func (n *nodeRoutes) reconcile(ctx context.Context) error {
	states := source.List[*v1alpha1.NodeNetworkState](n.store, source.KindNodeNetworkState)
	var errs []error
	for _, route := range source.List[*v1alpha1.NodeRoute](n.store, source.KindNodeRoute) {
		want := route.DeepCopy()
		want.Status.Nodes = nil
		for _, state := range states {
			if _, ok := source.Get[*corev1.Node](n.store, source.KindNode, source.Key{Name: state.Name}); ok {
				want.Status.Nodes = append(want.Status.Nodes, fateOn(state, route.Name)...)
			}
		}
		errs = append(errs, n.status.Update(ctx, source.KindNodeRoute, route.Status, want.Status, want))
	}
	return errors.Join(errs...)
}

// fateOn is what a node reports of a route: one entry, or none.
func fateOn(state *v1alpha1.NodeNetworkState, route string) []v1alpha1.NodeRouteNode {
	for _, r := range state.Status.Routes {
		if r.Name == route {
			return []v1alpha1.NodeRouteNode{{Node: state.Name, State: r.State, Message: r.Message}}
		}
	}
	return nil
}
