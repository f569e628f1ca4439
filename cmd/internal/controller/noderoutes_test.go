// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// routeWriter remembers the statuses that it is told.
type routeWriter struct {
	source.Writer
	status map[string]v1alpha1.NodeRouteStatus
}

func (w *routeWriter) UpdateStatus(_ context.Context, obj source.Object) error {
	w.status[obj.GetName()] = obj.(*v1alpha1.NodeRoute).Status
	return nil
}

// A NodeRoute's status is what the nodes that there are report of it.
func TestRouteStatusIsBroughtTogether(t *testing.T) {
	w := &routeWriter{status: map[string]v1alpha1.NodeRouteStatus{}}
	store := source.NewStore()
	put := func(kind source.Kind, obj source.Object) {
		store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
	}
	for _, name := range []string{"a", "b", "c", "gone"} {
		meta := metav1.ObjectMeta{Name: name}
		if name != "gone" {
			put(source.KindNode, &corev1.Node{ObjectMeta: meta})
		}
		state := &v1alpha1.NodeNetworkState{ObjectMeta: meta}
		if name != "c" { // which isn't selected
			state.Status.Routes = []v1alpha1.NodeRouteState{{Name: "other", State: v1alpha1.RouteApplied}, {Name: "cameras", State: v1alpha1.RouteApplied}}
		}
		if name == "b" {
			state.Status.Routes[1] = v1alpha1.NodeRouteState{Name: "cameras", State: v1alpha1.RouteRefused, Message: "no interface"}
		}
		put(source.KindNodeNetworkState, state)
	}
	put(source.KindNodeRoute, &v1alpha1.NodeRoute{ObjectMeta: metav1.ObjectMeta{Name: "cameras"}})
	writer := status.New(store, w, noEvents{}, slog.New(slog.DiscardHandler))
	if err := (&nodeRoutes{store, writer}).reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []v1alpha1.NodeRouteNode{{Node: "a", State: v1alpha1.RouteApplied}, {Node: "b", State: v1alpha1.RouteRefused, Message: "no interface"}}
	if diff := cmp.Diff(want, w.status["cameras"].Nodes); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
