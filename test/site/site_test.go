// SPDX-License-Identifier: Apache-2.0

package site

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestObjectsAreKubernetes(t *testing.T) {
	v := Service{Name: "web", ClusterIP: "10.96.0.30", Port: 80, TargetPort: 8080, LoadBalancer: true}
	var service corev1.Service
	if err := yaml.UnmarshalStrict([]byte(v.yaml()), &service); err != nil {
		t.Fatal(err)
	}
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Spec.Ports[0].TargetPort.IntValue() != 8080 {
		t.Errorf("service: got %+v", service.Spec)
	}
	var node corev1.Node
	if err := yaml.UnmarshalStrict([]byte(nodeYAML("node-a", []string{"10.244.0.0/24", "fd00::/64"}, []netip.Addr{netip.MustParseAddr("172.31.0.10"), netip.MustParseAddr("fd00::10")})), &node); err != nil {
		t.Fatal(err)
	}
	a := &Node{Node: &netlab.Node{Name: "node-a"}}
	for _, pods := range [][]*Pod{nil, {{Name: "web-1", Node: a, Addr: netip.MustParseAddr("10.244.0.2")}}} {
		var slice discoveryv1.EndpointSlice
		if err := yaml.UnmarshalStrict([]byte(v.endpoints(pods)), &slice); err != nil {
			t.Fatal(err)
		}
		if len(slice.Endpoints) != len(pods) || slice.Labels[discoveryv1.LabelServiceName] != "web" {
			t.Errorf("slice: got %+v", slice)
		}
	}
}

func TestStatusOf(t *testing.T) {
	s := &Site{tb: t, dir: t.TempDir()}
	if _, err := s.statusOf("web"); err == nil {
		t.Error("no status yet: got no error")
	}
	s.must(os.Mkdir(s.status(), 0o755), "make directory")
	text := "kind: Service\nmetadata: {name: other}\n---\nkind: Service\nmetadata: {name: web}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n"
	s.write(filepath.Join(s.status(), "x.yaml"), text)
	if got, err := s.statusOf("web"); err != nil || got != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("address: got %v, %v", got, err)
	}
}
