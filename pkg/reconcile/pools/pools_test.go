// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/kube"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/apiserver"
)

// writer keeps what is patched.
type writer struct{ patched []string }

func (w *writer) Patch(_ context.Context, kind source.Kind, key source.Key, change []byte) error {
	w.patched = append(w.patched, fmt.Sprint(kind, " ", key, " ", string(change)))
	return nil
}

func newPools(t *testing.T, folder string) (*Pools, *writer) {
	t.Helper()
	store, w := source.NewStore(), &writer{}
	put := func(kind source.Kind, obj source.Object) {
		store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
	}
	put(source.KindIPPool, &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "external"},
		Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, CIDRs: []string{"192.0.2.0/28"}, Priority: 3,
			Ranges: []v1alpha1.IPRange{{First: "198.51.100.1", Last: "198.51.100.9"}}},
		Status: v1alpha1.IPPoolStatus{Total: 23, Used: 2, Free: 21,
			Conflicts: []v1alpha1.AddressConflict{{Address: "192.0.2.3", MAC: "02:00:00:00:00:09", Node: "a"}},
			Conditions: []metav1.Condition{
				{Type: "Ready", Status: metav1.ConditionTrue, Message: "well"}, {Type: "Exhausted", Status: metav1.ConditionFalse},
				{Type: "Conflicted", Status: metav1.ConditionTrue, Message: "192.0.2.3 is used by 02:00:00:00:00:09"},
			}},
	})
	for addr, state := range map[string]v1alpha1.AllocationState{
		"192.0.2.2": v1alpha1.AllocationReserved, "192.0.2.1": v1alpha1.AllocationActive, "192.0.2.4": v1alpha1.AllocationCooling,
	} {
		put(source.KindIPAllocation, &v1alpha1.IPAllocation{ObjectMeta: metav1.ObjectMeta{Name: addr}, Spec: v1alpha1.IPAllocationSpec{
			Address: addr, Pool: "external", State: state, Owners: []v1alpha1.ServiceReference{{Namespace: "default", Name: "web"}}}})
	}
	p := &Pools{Folder: folder, Writer: w}
	if err := p.Part().Sync(t.Context(), parts.Objects{Store: store}); err != nil {
		t.Fatal(err)
	}
	return p, w
}

func TestList(t *testing.T) {
	p, _ := newPools(t, "")
	want := []agentapi.Pool{{
		Name: "external", Use: "LoadBalancer", Ranges: []string{"192.0.2.0/28", "198.51.100.1-198.51.100.9"}, AutoAssign: true, Priority: 3,
		Total: 23, Used: 2, Free: 21,
		Conflicts: []agentapi.PoolConflict{{Address: "192.0.2.3", MAC: "02:00:00:00:00:09", Node: "a"}},
		Owners: []agentapi.PoolOwner{
			{Address: "192.0.2.1", Service: "default/web", State: "Active"}, {Address: "192.0.2.2", Service: "default/web", State: "Reserved"},
		},
		Problems: []string{"192.0.2.3 is used by 02:00:00:00:00:09"},
	}}
	if diff := cmp.Diff(want, List(p.objects())); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
}

func TestDrain(t *testing.T) {
	p, w := newPools(t, "")
	pool, err := p.drain(t.Context(), agentapi.PoolDrain{Pool: "external"})
	if err != nil || !pool.Disabled || len(pool.Owners) != 2 || len(w.patched) != 1 || w.patched[0] != `IPPool external {"spec":{"disabled":true}}` {
		t.Errorf("want it disabled, and its owners told, got %+v, %v, wrote %q", pool, err, w.patched)
	}
	if _, err := p.drain(t.Context(), agentapi.PoolDrain{Pool: "external", Off: true}); err != nil || len(w.patched) != 1 {
		t.Errorf("want nothing written for one that gives, got %v, %d writes", err, len(w.patched))
	}
	if _, err := p.drain(t.Context(), agentapi.PoolDrain{Pool: "none"}); err == nil {
		t.Error("want an unknown pool refused")
	}
	p, w = newPools(t, "/etc/patchbay/objects")
	if _, err := p.drain(t.Context(), agentapi.PoolDrain{Pool: "external"}); err == nil || !strings.Contains(err.Error(), "spec.disabled to true") || len(w.patched) > 0 {
		t.Errorf("want it left to who writes the folder, got %v", err)
	}
}

// TestDrainReal disables a pool at a real API server, and lets it give again,
// also where its own owner disabled it: all else of it stays that owner's, who
// can still change it and take it out.
func TestDrainReal(t *testing.T) {
	s := apiserver.Start(t)
	const path = "/apis/patchbay.net/v1alpha1/ippools/external"
	manifest := func(spec string) string {
		return "{apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: external, labels: {site: x}}, spec: {use: LoadBalancer, cidrs: [192.0.2.0/28]" + spec + "}}"
	}
	client, err := kube.New(kube.Options{Kubeconfig: s.Kubeconfig, KubeletConfigs: []string{}, Component: "patchbayd", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	now := func() (obj v1alpha1.IPPool) {
		if err := s.Get(path, &obj); err != nil {
			t.Fatal(err)
		}
		return obj
	}
	for _, tt := range []struct {
		name, spec string
		off        bool
	}{
		{"drain", ", priority: 3", false},
		{"and off", ", priority: 3", true},
		{"off, disabled by its owner", ", priority: 3, disabled: true", true},
	} {
		s.Apply(t, path, manifest(tt.spec))
		obj := now()
		want := obj.Spec
		want.Disabled = !tt.off
		store := source.NewStore()
		store.Apply(source.Event{Op: source.Upsert, Kind: source.KindIPPool, Key: source.KeyOf(&obj), Object: &obj})
		p := &Pools{Writer: client}
		if err := p.Part().Sync(t.Context(), parts.Objects{Store: store}); err != nil {
			t.Fatal(err)
		}
		if pool, err := p.drain(t.Context(), agentapi.PoolDrain{Pool: "external", Off: tt.off}); err != nil || pool.Disabled == tt.off {
			t.Fatalf("%s: got %+v, %v", tt.name, pool, err)
		}
		if diff := cmp.Diff(want, now().Spec); diff != "" || now().Labels["site"] != "x" {
			t.Errorf("%s: spec (-want +got):\n%s\nlabels %v", tt.name, diff, now().Labels)
		}
	}
	s.Apply(t, path, manifest(""))
	if got := now().Spec; got.Priority != 0 || got.Disabled {
		t.Errorf("want what its owner takes out gone, got %+v", got)
	}
}
