// SPDX-License-Identifier: Apache-2.0

// Package sourcetest is what every source of objects must do, as a test suite
// that runs on each of them.
package sourcetest

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Backend is a place for objects, empty at first, with the source and the
// writer under test.
type Backend interface {
	Source() source.Source
	Writer() source.Writer
	// Put creates or replaces an object as its owner would, status and all.
	Put(t testing.TB, obj source.Object)
	// Remove deletes an object as its owner would.
	Remove(t testing.TB, kind source.Kind, key source.Key)
	// Break makes an IPPool that is there unacceptable, past all that would
	// refuse it on the way.
	Break(t testing.TB, name string)
}

// Run runs the suite, each test on a backend of its own.
func Run(t *testing.T, backend func(t *testing.T) Backend) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b Backend)
	}{
		{"existing objects come before Synced", testExisting},
		{"nothing there", testEmpty},
		{"changes and deletes follow", testChanges},
		{"kinds that weren't asked for stay out", testKinds},
		{"a restart brings differences only", testRestart},
		{"a bad object is a problem and the last good one stays", testProblem},
		{"a bad object at the start doesn't hold up the rest", testProblemAtStart},
		{"two runs at once", testTwoRuns},
		{"applied objects come back", testApply},
		{"status comes back, and nothing else changes", testStatus},
		{"status of nothing", testStatusOfNothing},
		{"a new object doesn't inherit a status", testStatusNotInherited},
		{"a node's report", testNodeReport},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, backend(t)) })
	}
}

// Namespace is where the suite's namespaced objects are.
const Namespace = "patchbay-suite"

func webService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeClusterIP,
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
}

func webSlice() *discoveryv1.EndpointSlice {
	name, port, tcp := "http", int32(8080), corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: Namespace, Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
}

func pool(name string, cidrs ...string) *v1alpha1.IPPool {
	return &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, CIDRs: cidrs},
	}
}

func allocation(addr string) *v1alpha1.IPAllocation {
	return &v1alpha1.IPAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: addr},
		Spec: v1alpha1.IPAllocationSpec{
			Address: addr, Pool: "external", State: v1alpha1.AllocationReserved,
			Owners: []v1alpha1.ServiceReference{{Namespace: Namespace, Name: "web"}},
		},
	}
}

var (
	webKey   = source.Key{Namespace: Namespace, Name: "web"}
	sliceKey = source.Key{Namespace: Namespace, Name: "web-1"}
)

// mine returns the events on the suite's own objects: an API server has some of
// its own, such as Service default/kubernetes.
func mine(events []source.Event) []source.Event {
	var out []source.Event
	for _, ev := range events {
		if ev.Key.Namespace == "" || ev.Key.Namespace == Namespace {
			out = append(out, ev)
		}
	}
	return out
}

func testExisting(t *testing.T, b Backend) {
	b.Put(t, webService())
	b.Put(t, webSlice())
	b.Put(t, pool("external", "203.0.113.0/28"))
	kinds := []source.Kind{source.KindService, source.KindEndpointSlice, source.KindIPPool, source.KindService}
	r := Record(t, b.Source(), kinds...)
	r.WaitSynced(t, kinds...)
	synced := map[source.Kind]int{}
	seen := map[source.Key]source.Event{}
	for _, ev := range mine(r.Events()) {
		switch ev.Op {
		case source.Synced:
			synced[ev.Kind]++
		case source.Upsert:
			if synced[ev.Kind] > 0 {
				t.Errorf("%s %s comes after Synced", ev.Kind, ev.Key)
			}
			seen[ev.Key] = ev
		default:
			t.Errorf("unexpected %s %s %s: %v", ev.Op, ev.Kind, ev.Key, ev.Err)
		}
	}
	for _, kind := range kinds {
		if synced[kind] != 1 {
			t.Errorf("%d Synced for %s, want 1", synced[kind], kind)
		}
	}
	svc, ok := seen[webKey].Object.(*corev1.Service)
	if !ok || svc.Name != "web" || svc.Namespace != Namespace || len(svc.Spec.Ports) != 1 || svc.Spec.Ports[0].Port != 80 || svc.Labels["app"] != "web" {
		t.Errorf("Service web = %+v", seen[webKey].Object)
	}
	if svc != nil && svc.Kind+svc.APIVersion != "" {
		t.Errorf("TypeMeta = %v, want none", svc.TypeMeta)
	}
	slice, ok := seen[sliceKey].Object.(*discoveryv1.EndpointSlice)
	if !ok || len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != "10.244.0.5" || *slice.Ports[0].Port != 8080 || slice.Labels[discoveryv1.LabelServiceName] != "web" {
		t.Errorf("EndpointSlice web-1 = %+v", seen[sliceKey].Object)
	}
	p, ok := seen[source.Key{Name: "external"}].Object.(*v1alpha1.IPPool)
	if !ok || p.Spec.AutoAssign == nil || !*p.Spec.AutoAssign || p.Spec.CoolDown == nil {
		t.Errorf("IPPool external = %+v, want its defaults set", seen[source.Key{Name: "external"}].Object)
	}
}

func testEmpty(t *testing.T, b Backend) {
	r := Record(t, b.Source(), source.KindIPPool, source.KindNodeRoute)
	r.WaitSynced(t, source.KindIPPool, source.KindNodeRoute)
	if got := Steps(r.Events()); strings.Count(got, "\n") != 2 {
		t.Errorf("events of an empty backend:\n%s", got)
	}
}

func testChanges(t *testing.T, b Backend) {
	r := Record(t, b.Source(), source.KindService)
	from := r.WaitSynced(t, source.KindService)
	b.Put(t, webService())
	_, from = r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	changed := webService()
	changed.Spec.Ports[0].Port = 81
	b.Put(t, changed)
	ev, from := r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	if got := ev.Object.(*corev1.Service).Spec.Ports[0].Port; got != 81 {
		t.Errorf("port = %d, want 81", got)
	}
	b.Remove(t, source.KindService, webKey)
	ev, from = r.WaitFor(t, from, source.Delete, source.KindService, webKey)
	if ev.Object == nil || ev.Object.GetName() != "web" {
		t.Errorf("deleted object = %v, want its last version", ev.Object)
	}
	b.Put(t, webService())
	r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
}

func testKinds(t *testing.T, b Backend) {
	b.Put(t, webService())
	b.Put(t, pool("external", "203.0.113.0/28"))
	r := Record(t, b.Source(), source.KindIPPool)
	from := r.WaitSynced(t, source.KindIPPool)
	b.Put(t, webSlice())
	b.Put(t, pool("second", "203.0.113.16/28"))
	r.WaitFor(t, from, source.Upsert, source.KindIPPool, source.Key{Name: "second"})
	for _, ev := range r.Events() {
		if ev.Kind != source.KindIPPool {
			t.Errorf("unexpected %s %s %s", ev.Op, ev.Kind, ev.Key)
		}
	}
}

func testRestart(t *testing.T, b Backend) {
	for _, name := range []string{"stays", "changes", "goes"} {
		b.Put(t, pool(name, "203.0.113.0/28"))
	}
	store := source.NewStore()
	r := Record(t, b.Source(), source.KindIPPool)
	r.WaitSynced(t, source.KindIPPool)
	r.Stop(t)
	for _, ev := range r.Events() {
		store.Apply(ev)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := store.Save(path); err != nil {
		t.Fatal(err)
	}

	b.Put(t, pool("changes", "203.0.113.0/27"))
	b.Remove(t, source.KindIPPool, source.Key{Name: "goes"})
	b.Put(t, pool("comes", "203.0.113.64/28"))

	store, err := source.LoadStore(path)
	if err != nil {
		t.Fatal(err)
	}
	r = Record(t, b.Source(), source.KindIPPool)
	r.WaitSynced(t, source.KindIPPool)
	got := map[string]bool{}
	for _, ev := range r.Events() {
		for _, change := range store.Changes(ev) {
			got[change.Op.String()+" "+change.Key.Name] = true
		}
	}
	want := map[string]bool{"upsert changes": true, "upsert comes": true, "delete goes": true, "synced ": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes after the restart (-want +got):\n%s", diff)
	}
}

func testProblem(t *testing.T, b Backend) {
	b.Put(t, pool("external", "203.0.113.0/28"))
	r := Record(t, b.Source(), source.KindIPPool)
	from := r.WaitSynced(t, source.KindIPPool)
	b.Break(t, "external")
	ev, from := r.WaitFor(t, from, source.Problem, source.KindIPPool, source.Key{Name: "external"})
	if ev.Err == nil || !strings.Contains(ev.Err.Error(), "external") {
		t.Errorf("problem = %v, want one that names the object", ev.Err)
	}
	b.Put(t, pool("second", "203.0.113.16/28"))
	_, after := r.WaitFor(t, from, source.Upsert, source.KindIPPool, source.Key{Name: "second"})
	for _, ev := range r.Events()[from:after] {
		if ev.Key.Name == "external" {
			t.Errorf("unexpected %s of what can't be read", ev.Op)
		}
	}
	b.Put(t, pool("external", "203.0.113.32/28"))
	ev, from = r.WaitFor(t, after, source.Upsert, source.KindIPPool, source.Key{Name: "external"})
	if got := ev.Object.(*v1alpha1.IPPool).Spec.CIDRs[0]; got != "203.0.113.32/28" {
		t.Errorf("cidr = %s after the repair", got)
	}
	b.Remove(t, source.KindIPPool, source.Key{Name: "external"})
	r.WaitFor(t, from, source.Delete, source.KindIPPool, source.Key{Name: "external"})
}

func testProblemAtStart(t *testing.T, b Backend) {
	b.Put(t, pool("external", "203.0.113.0/28"))
	b.Put(t, pool("second", "203.0.113.16/28"))
	b.Break(t, "external")
	r := Record(t, b.Source(), source.KindIPPool)
	r.WaitSynced(t, source.KindIPPool)
	r.WaitFor(t, 0, source.Upsert, source.KindIPPool, source.Key{Name: "second"})
	_, from := r.WaitFor(t, 0, source.Problem, source.KindIPPool, source.Key{Name: "external"})
	b.Put(t, pool("external", "203.0.113.0/28"))
	r.WaitFor(t, from, source.Upsert, source.KindIPPool, source.Key{Name: "external"})
}

func testTwoRuns(t *testing.T, b Backend) {
	src := b.Source()
	first := Record(t, src, source.KindIPPool)
	second := Record(t, src, source.KindIPPool)
	first.WaitSynced(t, source.KindIPPool)
	second.WaitSynced(t, source.KindIPPool)
	b.Put(t, pool("external", "203.0.113.0/28"))
	first.WaitFor(t, 0, source.Upsert, source.KindIPPool, source.Key{Name: "external"})
	second.WaitFor(t, 0, source.Upsert, source.KindIPPool, source.Key{Name: "external"})
}

func testApply(t *testing.T, b Backend) {
	w, key := b.Writer(), source.Key{Name: "203.0.113.10"}
	r := Record(t, b.Source(), source.KindIPAllocation)
	from := r.WaitSynced(t, source.KindIPAllocation)
	obj := allocation("203.0.113.10")
	if err := w.Apply(t.Context(), obj.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	ev, from := r.WaitFor(t, from, source.Upsert, source.KindIPAllocation, key)
	if diff := cmp.Diff(obj.Spec, ev.Object.(*v1alpha1.IPAllocation).Spec); diff != "" {
		t.Errorf("applied spec (-want +got):\n%s", diff)
	}
	if err := w.Apply(t.Context(), obj.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	obj.Spec.State = v1alpha1.AllocationActive
	obj.Labels = map[string]string{"seen": "yes"}
	if err := w.Apply(t.Context(), obj.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	ev, from = r.WaitFor(t, from, source.Upsert, source.KindIPAllocation, key)
	if got := ev.Object.(*v1alpha1.IPAllocation); got.Spec.State != v1alpha1.AllocationActive || got.Labels["seen"] != "yes" {
		t.Errorf("object after the second change = %+v; applying the same again isn't a change", got)
	}
	for range 2 {
		if err := w.Delete(t.Context(), source.KindIPAllocation, key); err != nil {
			t.Fatal(err)
		}
	}
	r.WaitFor(t, from, source.Delete, source.KindIPAllocation, key)
}

func testStatus(t *testing.T, b Backend) {
	svc := webService()
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	b.Put(t, svc)
	r := Record(t, b.Source(), source.KindService)
	from := r.WaitSynced(t, source.KindService)
	ev, _ := r.WaitFor(t, 0, source.Upsert, source.KindService, webKey)
	update := ev.Object.DeepCopyObject().(*corev1.Service)
	spec := update.Spec
	update.Spec.Ports = nil // must not reach the object
	update.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.10"}}
	update.Status.Conditions = []metav1.Condition{{Type: "Allocated", Status: metav1.ConditionTrue, Reason: "Pool", LastTransitionTime: metav1.Unix(1, 0)}}
	if err := b.Writer().UpdateStatus(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	ev, from = r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	got := ev.Object.(*corev1.Service)
	if len(got.Status.LoadBalancer.Ingress) != 1 || got.Status.LoadBalancer.Ingress[0].IP != "203.0.113.10" || len(got.Status.Conditions) != 1 {
		t.Errorf("status = %+v", got.Status)
	}
	if diff := cmp.Diff(spec, got.Spec); diff != "" {
		t.Errorf("spec changed (-want +got):\n%s", diff)
	}
	update = got.DeepCopy()
	update.Status = corev1.ServiceStatus{}
	if err := b.Writer().UpdateStatus(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	ev, _ = r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	if got := ev.Object.(*corev1.Service).Status; len(got.LoadBalancer.Ingress) != 0 {
		t.Errorf("status = %+v, want none", got)
	}
}

func testStatusOfNothing(t *testing.T, b Backend) {
	err := b.Writer().UpdateStatus(t.Context(), webService())
	if !errors.Is(err, source.ErrNotFound) || !strings.Contains(err.Error(), "web") {
		t.Errorf("error = %v, want ErrNotFound with the object's name", err)
	}
}

func testStatusNotInherited(t *testing.T, b Backend) {
	w := b.Writer()
	b.Put(t, webService())
	r := Record(t, b.Source(), source.KindService)
	from := r.WaitSynced(t, source.KindService)
	ev, _ := r.WaitFor(t, 0, source.Upsert, source.KindService, webKey)
	update := ev.Object.DeepCopyObject().(*corev1.Service)
	update.Status.Conditions = []metav1.Condition{{Type: "Allocated", Status: metav1.ConditionTrue, Reason: "Pool", LastTransitionTime: metav1.Unix(1, 0)}}
	if err := w.UpdateStatus(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	_, from = r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	b.Remove(t, source.KindService, webKey)
	_, from = r.WaitFor(t, from, source.Delete, source.KindService, webKey)
	if err := w.UpdateStatus(t.Context(), update); !errors.Is(err, source.ErrNotFound) {
		t.Fatalf("status of a deleted object: %v, want ErrNotFound", err)
	}
	b.Put(t, webService())
	ev, _ = r.WaitFor(t, from, source.Upsert, source.KindService, webKey)
	if got := ev.Object.(*corev1.Service).Status.Conditions; len(got) != 0 {
		t.Errorf("conditions of the new object = %v, want none", got)
	}
}

func testNodeReport(t *testing.T, b Backend) {
	r := Record(t, b.Source(), source.KindNodeNetworkState)
	from := r.WaitSynced(t, source.KindNodeNetworkState)
	report := &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	report.Status.NICs = []v1alpha1.NICState{{Name: "eth0", Role: "internal", Carrier: true}}
	if err := b.Writer().Apply(t.Context(), report.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	if err := b.Writer().UpdateStatus(t.Context(), report.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	r.Wait(t, from, "the report", func(ev source.Event) bool {
		got, ok := ev.Object.(*v1alpha1.NodeNetworkState)
		return ok && ev.Op == source.Upsert && cmp.Equal(got.Status, report.Status)
	})
}
