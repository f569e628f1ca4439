// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

func TestPool(t *testing.T) {
	tests := []struct {
		name, spec string
		want       []string // of each part
		err        string
	}{
		{"a cidr, without network and broadcast address", `cidrs: [192.0.2.0/29]`, []string{"[192.0.2.1-192.0.2.6]"}, ""},
		{"a range as it stands", `ranges: [{first: 192.0.2.0, last: 192.0.2.7}]`, []string{"[192.0.2.0-192.0.2.7]"}, ""},
		{"one address", `cidrs: [192.0.2.9/32]`, []string{"[192.0.2.9-192.0.2.9]"}, ""},
		{"two families", `{cidrs: ["fd00:c0::/125", 192.0.2.0/30]}`, []string{"[192.0.2.1-192.0.2.2]", "[fd00:c0::1-fd00:c0::7]"}, ""},
		{"exclusions and gateway", `{cidrs: [192.0.2.0/29], ranges: [{first: 192.0.2.16, last: 192.0.2.18}], exclude: [192.0.2.17, 192.0.2.4/31, "fd00::/8"], gateway: 192.0.2.1}`,
			[]string{"[192.0.2.2-192.0.2.3 192.0.2.6-192.0.2.6 192.0.2.16-192.0.2.16 192.0.2.18-192.0.2.18]"}, ""},
		{"nothing", `{}`, nil, "neither cidrs nor ranges"},
		{"overlap", `{cidrs: [192.0.2.0/29], ranges: [{first: 192.0.2.5, last: 192.0.2.9}]}`, nil, "overlaps"},
		{"nonsense", `{cidrs: [192.0.2.0]}`, nil, `cidrs: "192.0.2.0" is not a prefix`},
		{"nonsense in a range", `{ranges: [{first: x, last: 192.0.2.1}]}`, nil, `ranges: "x"`},
		{"nonsense in exclude", `{cidrs: [192.0.2.0/24], exclude: [x]}`, nil, `exclude: "x"`},
		{"nonsense as gateway", `{cidrs: [192.0.2.0/24], gateway: x}`, nil, `gateway: "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pool, err := Pool(&v1alpha1.IPPool{Spec: *read[v1alpha1.IPPoolSpec](t, tt.spec)}, nil)
			if tt.err != "" {
				checkErr(t, err, tt.err)
				return
			}
			checkErr(t, err)
			var got []string
			for _, part := range pool.Parts {
				got = append(got, part.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("parts (-want +got):\n%s", diff)
			}
			if !pool.AutoAssign || pool.CoolDown != time.Minute || pool.Admits != nil {
				t.Errorf("want the defaults, got %+v", pool)
			}
		})
	}
}

func TestPoolAdmits(t *testing.T) {
	obj := read[v1alpha1.IPPool](t, `
metadata: {name: a}
spec:
  use: LoadBalancer
  cidrs: [192.0.2.0/24]
  autoAssign: false
  priority: 7
  disabled: true
  coolDown: 5s
  serviceSelector: {matchLabels: {tier: web}}
  namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red, blue]}]}
`)
	labels := map[string][2]string{"both": {"web", "red"}, "service": {"web", "green"}, "namespace": {"db", "blue"}}
	pool, err := Pool(obj, func(n loadbalancer.Name) (service, namespace map[string]string) {
		l := labels[n.Name]
		return map[string]string{"tier": l[0]}, map[string]string{"team": l[1]}
	})
	checkErr(t, err)
	for n, want := range map[string]bool{"both": true, "service": false, "namespace": false} {
		if got := pool.Admits(loadbalancer.Name{Name: n}); got != want {
			t.Errorf("%s: want admitted %v, got %v", n, want, got)
		}
	}
	if pool.Name != "a" || pool.AutoAssign || pool.Priority != 7 || !pool.Disabled || pool.CoolDown != 5*time.Second {
		t.Errorf("want the settings of the object, got %+v", pool)
	}
}

func TestPoolRanges(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"cidrs and ranges", `{use: LoadBalancer, cidrs: [192.0.2.0/29], ranges: [{first: 192.0.2.16, last: 192.0.2.18}]}`, "[192.0.2.0-192.0.2.7 192.0.2.16-192.0.2.18]"},
		{"a pool for nodes: the ranges in its subnet", `{use: Node, cidrs: [192.0.2.0/24], ranges: [{first: 192.0.2.16, last: 192.0.2.18}]}`, "[192.0.2.16-192.0.2.18]"},
		{"a pool for nodes without ranges", `{use: Node, cidrs: [192.0.2.0/29]}`, "[192.0.2.0-192.0.2.7]"},
		{"exclusions", `{use: Pod, cidrs: [192.0.2.0/29, "fd00::/126"], exclude: [192.0.2.0, 192.0.2.4/31, 192.0.2.7, "fd00::/64"]}`, "[192.0.2.1-192.0.2.3 192.0.2.6-192.0.2.6]"},
	}
	for _, tt := range tests {
		got, err := PoolRanges(&v1alpha1.IPPool{Spec: *read[v1alpha1.IPPoolSpec](t, tt.spec)})
		checkErr(t, err)
		if text := fmt.Sprint(got); text != tt.want {
			t.Errorf("%s: want %s, got %s", tt.name, tt.want, text)
		}
	}
}

func TestClassServes(t *testing.T) {
	tests := []struct {
		spec            string
		ours, byDefault bool
	}{
		{`{type: ClusterIP}`, false, false},
		{`{type: LoadBalancer}`, false, true},
		{`{type: LoadBalancer, loadBalancerClass: patchbay.net/lb}`, true, true},
		{`{type: LoadBalancer, loadBalancerClass: other.example/lb}`, false, false},
	}
	for _, tt := range tests {
		obj := &corev1.Service{Spec: *read[corev1.ServiceSpec](t, tt.spec)}
		got := [2]bool{Class{Name: v1alpha1.LoadBalancerClass}.Serves(obj), Class{Name: v1alpha1.LoadBalancerClass, Default: true}.Serves(obj)}
		if got != [2]bool{tt.ours, tt.byDefault} {
			t.Errorf("%s: want %v, as default %v, got %v", tt.spec, tt.ours, tt.byDefault, got)
		}
	}
}

func TestLoadBalancer(t *testing.T) {
	obj := read[corev1.Service](t, `
metadata:
  namespace: default
  name: web
  creationTimestamp: "2026-11-01T00:00:00Z"
  annotations: {patchbay.net/addresses: "192.0.2.5, fd00:c0::5", patchbay.net/pools: "a,b", patchbay.net/sharing-key: k}
spec:
  type: LoadBalancer
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: RequireDualStack
  loadBalancerIP: 192.0.2.9
  externalTrafficPolicy: Local
  selector: {tier: front, app: web}
  ports: [{port: 80}, {name: dns, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: web.example}]}}
`)
	want := loadbalancer.Service{
		Name: loadbalancer.Name{Namespace: "default", Name: "web"}, Created: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		IPv4: true, IPv6: true, All: true, Requested: addrs("192.0.2.5", "fd00:c0::5"), Pools: []string{"a", "b"}, SharingKey: "k",
		Ports: []loadbalancer.Port{{Protocol: 6, Number: 80}, {Protocol: 17, Number: 53}}, Local: true, Backends: "app=web,tier=front", Status: addrs("192.0.2.1"),
	}
	if diff := cmp.Diff(want, LoadBalancer(obj), equalAddrs, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
}

func TestLoadBalancerPieces(t *testing.T) {
	tests := []struct {
		name, spec, annotation string
		is4, is6               bool
		requested, err         string
	}{
		{"family of the ClusterIPs", `{clusterIP: "fd00:96::1"}`, "", false, true, "", ""},
		{"no family named", `{}`, "", true, false, "", ""},
		{"spec.loadBalancerIP", `{loadBalancerIP: 192.0.2.9}`, "", true, false, "192.0.2.9", ""},
		{"the annotation before it", `{loadBalancerIP: 192.0.2.9}`, "192.0.2.5", true, false, "192.0.2.5", ""},
		{"each of a family", `{loadBalancerIP: 192.0.2.9, ipFamilies: [IPv4, IPv6]}`, "fd00::5", true, true, "fd00::5 192.0.2.9", ""},
		{"nonsense", `{}`, "somewhere", true, false, "", `patchbay.net/addresses: "somewhere"`},
		{"nonsense in spec", `{loadBalancerIP: x}`, "", true, false, "", `spec.loadBalancerIP: "x"`},
		{"two of one family", `{}`, "192.0.2.5,192.0.2.6", true, false, "", "192.0.2.5 and 192.0.2.6 are of one family"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			obj := &corev1.Service{Spec: *read[corev1.ServiceSpec](t, tt.spec)}
			if tt.annotation != "" {
				obj.Annotations = map[string]string{v1alpha1.AnnotationAddresses: tt.annotation}
			}
			got := LoadBalancer(obj)
			if tt.err != "" {
				checkErr(t, got.Err, tt.err)
			} else {
				checkErr(t, got.Err)
			}
			requested := strings.Trim(fmt.Sprint(got.Requested), "[]")
			if got.IPv4 != tt.is4 || got.IPv6 != tt.is6 || requested != tt.requested {
				t.Errorf("want families %v %v, requested %q, got %v %v %q", tt.is4, tt.is6, tt.requested, got.IPv4, got.IPv6, requested)
			}
		})
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for _, state := range []loadbalancer.State{loadbalancer.Active, loadbalancer.Cooling, loadbalancer.Conflicted} {
		want := loadbalancer.Record{
			Addr: addrs("fd00:c0::5")[0], Pool: "a", SharingKey: "k", State: state, Since: time.Unix(1_700_000_000, 0),
			Owners: []loadbalancer.Name{{Namespace: "d", Name: "x"}, {Namespace: "d", Name: "y"}},
		}
		obj := Allocation(want)
		checkErr(t, obj.Validate())
		got, err := Record(obj)
		checkErr(t, err)
		if diff := cmp.Diff(want, got, equalAddrs); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
	}
	_, err := Record(&v1alpha1.IPAllocation{Spec: v1alpha1.IPAllocationSpec{Address: "x"}})
	checkErr(t, err, `spec.address: "x"`)
}

// An endpoint in a pool would let who writes EndpointSlices point a Service at
// another's address; nodes, and the API server, may stand in a pool's range.
func TestServicesRefusesAddressesOfPools(t *testing.T) {
	s := NewServices(nil)
	pool := read[v1alpha1.IPPool](t, `{metadata: {name: a}, spec: {use: LoadBalancer, cidrs: [192.0.2.0/24], exclude: [192.0.2.200]}}`)
	node := read[corev1.Node](t, `{metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}`)
	api := slice(t, "api", "kubernetes", "192.0.2.3 rs")
	for _, ev := range []source.Event{
		upsert(source.KindService, webService(t)),
		upsert(source.KindEndpointSlice, slice(t, "a", "web", "192.0.2.1 rs", "192.0.2.2 rs", "192.0.2.200 rs", "10.244.0.1 rs")),
		upsert(source.KindEndpointSlice, api),
	} {
		s.Apply(ev)
	}
	steps := []struct {
		name string
		ev   source.Event
		want []string
		bad  int // problems
	}{
		{"a pool", upsert(source.KindIPPool, pool), []string{"192.0.2.200 rs", "10.244.0.1 rs"}, 1},
		{"a node in it", upsert(source.KindNode, node), []string{"192.0.2.1 rs", "192.0.2.200 rs", "10.244.0.1 rs"}, 1},
		{"the node is gone", gone(source.KindNode, node), []string{"192.0.2.200 rs", "10.244.0.1 rs"}, 1},
		{"the pool is gone", gone(source.KindIPPool, pool), []string{"192.0.2.1 rs", "192.0.2.2 rs", "192.0.2.200 rs", "10.244.0.1 rs"}, 0},
	}
	for _, step := range steps {
		s.Apply(step.ev)
		if diff := cmp.Diff(step.want, endpointsOf(s)); diff != "" {
			t.Errorf("%s: endpoints (-want +got):\n%s", step.name, diff)
		}
		if got := s.Problems(); len(got) != step.bad {
			t.Errorf("%s: want %d problems, got %v", step.name, step.bad, got)
		}
	}
	pool.Spec.CIDRs = []string{"x"}
	s.Apply(upsert(source.KindIPPool, pool))
	if got := s.Problems(); len(got) != 1 || got[0].Kind != source.KindIPPool {
		t.Errorf("want the pool named, got %v", got)
	}
}
