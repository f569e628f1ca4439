// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

func upsert(kind source.Kind, obj source.Object) source.Event {
	return source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj}
}

func gone(kind source.Kind, obj source.Object) source.Event {
	return source.Event{Op: source.Delete, Kind: kind, Key: source.KeyOf(obj)}
}

func webService(t *testing.T) *corev1.Service {
	return read[corev1.Service](t, `{metadata: {namespace: default, name: web}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}`)
}

// slice is an EndpointSlice of web with endpoints "address flags": r ready,
// s serving, t terminating.
func slice(t *testing.T, name, svc string, endpoints ...string) *discoveryv1.EndpointSlice {
	obj := read[discoveryv1.EndpointSlice](t, fmt.Sprintf(`
metadata: {namespace: default, name: %s, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{port: 8080}]`, name, svc))
	for _, e := range endpoints {
		addr, flags, _ := strings.Cut(e, " ")
		has := func(f string) *bool { b := strings.Contains(flags, f); return &b }
		obj.Endpoints = append(obj.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{addr},
			Conditions: discoveryv1.EndpointConditions{Ready: has("r"), Serving: has("s"), Terminating: has("t")},
		})
	}
	return obj
}

func endpointsOf(s *Services) []string {
	var list []string
	for _, ep := range s.Input(service.NodeInfo{}, 0).Endpoints[service.Name{Namespace: "default", Name: "web"}] {
		text := ep.Addr.String() + " "
		for _, f := range []struct {
			set  bool
			text string
		}{{ep.Ready, "r"}, {ep.Serving, "s"}, {ep.Terminating, "t"}} {
			if f.set {
				text += f.text
			}
		}
		list = append(list, text)
	}
	return list
}

func TestServicesMergesSlices(t *testing.T) {
	s := NewServices(nil)
	s.Apply(upsert(source.KindService, webService(t)))
	steps := []struct {
		name string
		ev   source.Event
		want []string
	}{
		{"one slice", upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.1 rs")), []string{"10.244.0.1 rs"}},
		{"one address twice", upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.1 st", "10.244.0.1 ")), []string{"10.244.0.1 "}},
		{"once", upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.1 rs")), []string{"10.244.0.1 rs"}},
		{"another", upsert(source.KindEndpointSlice, slice(t, "b", "web", "10.244.0.2 rs")), []string{"10.244.0.1 rs", "10.244.0.2 rs"}},
		{"address given to a new pod", upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.2 st")), []string{"10.244.0.2 rs"}},
		{"new pod not ready", upsert(source.KindEndpointSlice, slice(t, "b", "web", "10.244.0.2 ")), []string{"10.244.0.2 "}},
		{"ready one counts", upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.2 rs")), []string{"10.244.0.2 rs"}},
		{"slice moves to another Service", upsert(source.KindEndpointSlice, slice(t, "b", "db", "10.244.0.3 rs")), []string{"10.244.0.2 rs"}},
		{"slice gone", gone(source.KindEndpointSlice, slice(t, "a", "web")), nil},
	}
	for _, step := range steps {
		if !s.Apply(step.ev) {
			t.Errorf("%s: want a change", step.name)
		}
		if diff := cmp.Diff(step.want, endpointsOf(s)); diff != "" {
			t.Fatalf("%s: endpoints (-want +got):\n%s", step.name, diff)
		}
	}
	if len(s.ofService) != 1 || len(s.slices) != 1 {
		t.Errorf("want one slice left of one Service, got %d of %d", len(s.slices), len(s.ofService))
	}
}

func TestServicesHeadlessSlice(t *testing.T) {
	s := NewServices(nil)
	s.Apply(upsert(source.KindService, webService(t)))
	s.Apply(upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.1 rs")))
	labelled := slice(t, "a", "web", "10.244.0.1 rs")
	labelled.Labels[corev1.IsHeadlessService] = ""
	s.Apply(upsert(source.KindEndpointSlice, labelled))
	if got := endpointsOf(s); len(got) != 0 {
		t.Errorf("want no endpoints of a slice that is labelled headless, got %v", got)
	}
}

func TestServicesSliceWithoutService(t *testing.T) {
	s := NewServices(nil)
	s.Apply(upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.244.0.1 rs")))
	if got := s.Problems(); len(got) != 0 {
		t.Errorf("before all Services were read: want no problem, got %v", got)
	}
	s.Apply(source.Event{Op: source.Synced, Kind: source.KindService})
	got := s.Problems()
	if len(got) != 1 || got[0].String() != "EndpointSlice default/a: its Service default/web is not there" {
		t.Errorf("want the slice named, got %v", got)
	}
	if in := s.Input(service.NodeInfo{}, 0); len(in.Services) != 0 || len(in.Endpoints) != 0 {
		t.Errorf("want it kept aside, got %v", in)
	}
	s.Apply(upsert(source.KindService, webService(t)))
	if got := s.Problems(); len(got) != 0 {
		t.Errorf("with its Service: want no problem, got %v", got)
	}
	if diff := cmp.Diff([]string{"10.244.0.1 rs"}, endpointsOf(s)); diff != "" {
		t.Errorf("with its Service: endpoints (-want +got):\n%s", diff)
	}
	s.Apply(gone(source.KindService, webService(t)))
	if got := s.Problems(); len(got) != 1 {
		t.Errorf("Service gone: want one problem, got %v", got)
	}
}

func TestServicesProblems(t *testing.T) {
	s := NewServices(prefixes("10.96.0.0/12"))
	headless := read[corev1.Service](t, `{metadata: {namespace: default, name: db}, spec: {clusterIP: None}}`)
	bad := webService(t)
	bad.Spec.ExternalIPs = []string{"nowhere"}
	unlabelled := slice(t, "u", "web")
	unlabelled.Labels = nil
	node := read[corev1.Node](t, `{metadata: {name: n1}, spec: {podCIDR: x}}`)
	for _, ev := range []source.Event{
		{Op: source.Synced, Kind: source.KindService},
		upsert(source.KindService, headless), upsert(source.KindService, bad), upsert(source.KindNode, node),
		upsert(source.KindEndpointSlice, slice(t, "a", "web", "10.96.0.1 rs", "10.244.0.1 rs")),
		upsert(source.KindEndpointSlice, slice(t, "h", "db", "10.244.0.2 rs")),
		upsert(source.KindEndpointSlice, unlabelled),
	} {
		s.Apply(ev)
	}
	var got []string
	for _, p := range s.Problems() {
		got = append(got, p.String())
	}
	want := []string{
		"EndpointSlice default/a: endpoint 0: 10.96.0.1 is in a range of Services",
		"EndpointSlice default/u: has no label kubernetes.io/service-name",
		`Node n1: spec.podCIDRs: "x" is not a range`,
		`Service default/web: externalIPs: "nowhere" is not an address`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.244.0.1 rs"}, endpointsOf(s)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if s.Apply(source.Event{Op: source.Problem, Kind: source.KindService}) || s.Apply(upsert(source.KindPod, &corev1.Pod{})) {
		t.Error("want no change by a Problem or another kind")
	}
}

func TestServicesNodes(t *testing.T) {
	s := NewServices(nil)
	for _, name := range []string{"n2", "n1"} {
		s.Apply(upsert(source.KindNode, read[corev1.Node](t, `{metadata: {name: `+name+`, labels: {topology.kubernetes.io/zone: z}}}`)))
	}
	if got := s.Nodes(); len(got) != 2 || got[0].Name != "n1" {
		t.Errorf("want n1 and n2, got %v", got)
	}
	n, ok := s.Node("n2")
	if want := (service.NodeInfo{Name: "n2", Zone: "z", Addrs: addrs("10.0.0.1")}); !ok || cmp.Diff(want, n.Service(addrs("10.0.0.1")), equalAddrs) != "" {
		t.Errorf("want %v, got %v", want, n)
	}
	s.Apply(gone(source.KindNode, &corev1.Node{ObjectMeta: read[corev1.Node](t, `{metadata: {name: n2}}`).ObjectMeta}))
	if _, ok := s.Node("n2"); ok {
		t.Error("want n2 gone")
	}
}

func TestServicesOtherNodes(t *testing.T) {
	s := NewServices(nil)
	for name, ip := range map[string]string{"n1": "10.0.0.1", "n3": "10.0.0.3", "n2": "10.0.0.2"} {
		s.Apply(upsert(source.KindNode, read[corev1.Node](t, `{metadata: {name: `+name+`}, status: {addresses: [{type: InternalIP, address: `+ip+`}]}}`)))
	}
	got := s.Input(service.NodeInfo{Name: "n2", Addrs: addrs("10.0.0.2")}, 0).Node.Others
	if want := addrs("10.0.0.1", "10.0.0.3"); !slices.Equal(got, want) {
		t.Errorf("want %v, got %v", want, got)
	}
}

// Entries after each of many random changes are those that Build makes of all.
func TestServicesEntriesAreBuilt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := NewServices(prefixes("10.96.0.0/16"))
	node := service.NodeInfo{Name: "n1", Addrs: addrs("172.18.0.2")}
	name := func() string { return fmt.Sprint("s", r.IntN(4)) }
	pool := read[v1alpha1.IPPool](t, `{metadata: {name: a}, spec: {use: LoadBalancer, cidrs: [10.244.0.0/30]}}`)
	for round := range 1000 {
		var ev source.Event
		svc := webService(t)
		svc.Name, svc.Spec.ClusterIP = name(), fmt.Sprintf("10.96.0.%d", 1+r.IntN(3))
		switch r.IntN(5) {
		case 0:
			ev = upsert(source.KindService, svc)
		case 1:
			svc.Spec.ClusterIP = corev1.ClusterIPNone
			ev = upsert(source.KindService, svc)
		case 2:
			ev = upsert(source.KindEndpointSlice, slice(t, name(), name(), fmt.Sprintf("10.244.0.%d rs", r.IntN(6)), fmt.Sprintf("10.244.0.%d st", r.IntN(6))))
		case 3:
			ev = gone(source.KindEndpointSlice, slice(t, name(), "any"))
		case 4:
			if ev = upsert(source.KindIPPool, pool); r.IntN(2) == 0 {
				ev = gone(source.KindIPPool, pool)
			}
		}
		if r.IntN(10) == 0 {
			ev = gone(source.KindService, svc)
		}
		s.Apply(ev)
		if diff := cmp.Diff(service.Build(s.Input(node, 0)), s.Entries(node, 0), equalAddrs, cmpopts.EquateEmpty(), cmp.Comparer(equalAddrPorts)); diff != "" {
			t.Fatalf("round %d (-Build +Entries):\n%s", round, diff)
		}
	}
}

// An externalIP may be nobody else's: not another Service's, a LoadBalancer's, or a node's.
func TestServicesGuardExternalIPs(t *testing.T) {
	s := NewServices(prefixes("10.96.0.0/16"))
	svc := webService(t)
	svc.Spec.ExternalIPs = []string{"10.96.0.99", "192.0.2.7", "172.18.0.3", "198.51.100.1"}
	s.Apply(upsert(source.KindService, svc))
	node := service.NodeInfo{Name: "n1"}
	served := func() string {
		t.Helper()
		in := s.Input(node, 0)
		if diff := cmp.Diff(service.Build(in), s.Entries(node, 0), equalAddrs, cmpopts.EquateEmpty(), cmp.Comparer(equalAddrPorts)); diff != "" {
			t.Errorf("(-Build +Entries):\n%s", diff)
		}
		return fmt.Sprint(in.Services[0].ExternalIPs)
	}
	if got, want := served(), "[192.0.2.7 172.18.0.3 198.51.100.1]"; got != want {
		t.Errorf("want %s, got %s", want, got)
	}
	s.Apply(upsert(source.KindIPPool, read[v1alpha1.IPPool](t, `{metadata: {name: a}, spec: {use: LoadBalancer, cidrs: [192.0.2.0/24]}}`)))
	if got, want := served(), "[172.18.0.3 198.51.100.1]"; got != want {
		t.Errorf("with a pool: want %s, got %s", want, got)
	}
	s.Apply(upsert(source.KindNode, read[corev1.Node](t, `{metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}`)))
	if got, want := served(), "[198.51.100.1]"; got != want {
		t.Errorf("with a node: want %s, got %s", want, got)
	}
	want := "Service default/web: externalIPs: 10.96.0.99 is in a range of Services\n" +
		"externalIPs: 192.0.2.7 is in pool a of LoadBalancer addresses\nexternalIPs: 172.18.0.3 is a node's"
	if got := s.Problems(); len(got) != 1 || got[0].String() != want {
		t.Errorf("problems: want %q, got %v", want, got)
	}
}

func equalAddrPorts(a, b netip.AddrPort) bool { return a == b }

func TestServicesHealthChecks(t *testing.T) {
	s := NewServices(nil)
	svc := webService(t)
	svc.Spec.Type, svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 31000
	s.Apply(upsert(source.KindService, svc))
	local := slice(t, "a", "web", "10.244.0.1 rs")
	local.Endpoints[0].NodeName = &[]string{"n1"}[0]
	s.Apply(upsert(source.KindEndpointSlice, local))
	for node, want := range map[string]int{"n1": 1, "n2": 0} {
		got := s.HealthChecks(node)
		if diff := cmp.Diff([]service.HealthCheck{{Service: service.Name{Namespace: "default", Name: "web"}, Port: 31000, Endpoints: want}}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", node, diff)
		}
	}
}
