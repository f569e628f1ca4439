// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// TestLarge has a Service with 2,000 endpoints, and then another of the same
// name with other ports and none of them.
func TestLarge(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		n := newNode(t)
		r := oracle.NewRandom(1)
		s := r.State()
		c := n.newChain(fault{})
		svc := &corev1.Service{}
		svc.Namespace, svc.Name = "default", "large"
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "fd00:96::77", []string{"fd00:96::77"}
		svc.Spec.Ports = []corev1.ServicePort{{Name: "p", Protocol: corev1.ProtocolTCP, Port: 80}}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2001:db8:1::1:77"}}
		s.Services, s.Slices = []*corev1.Service{svc}, nil
		for part := range 20 {
			s.Slices = append(s.Slices, largeSlice(svc, part))
		}
		steps := []*oracle.State{s, again(s, 81)}
		for _, state := range steps {
			c.become(state)
			if err := exact(state, n.set.Maps); err != nil {
				t.Fatal(err)
			}
			j := n.judge(state)
			for _, p := range r.Packets(state, 200) {
				if err := j.check(p); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// again returns the state after the Services were made anew with another port.
func again(s *oracle.State, port int32) *oracle.State {
	next := &oracle.State{Node: s.Node, Nodes: s.Nodes, NICs: s.NICs, PodRanges: s.PodRanges, ServiceRanges: s.ServiceRanges, Pools: s.Pools}
	svc := s.Services[0].DeepCopy()
	svc.Spec.Ports[0].Port = port
	next.Services = []*corev1.Service{svc}
	return next
}

func largeSlice(svc *corev1.Service, part int) *discoveryv1.EndpointSlice {
	node, number := "b", int32(8080)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv6}
	slice.Namespace, slice.Name = svc.Namespace, fmt.Sprintf("large-%d", part)
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name}
	p := &svc.Spec.Ports[0]
	slice.Ports = []discoveryv1.EndpointPort{{Name: &p.Name, Protocol: &p.Protocol, Port: &number}}
	for i := range 100 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			NodeName: &node, Addresses: []string{fmt.Sprintf("fd00:244:1::%x", 100*part+i+1)},
		})
	}
	return slice
}

// TestExact holds that the comparison with the kernel's maps finds what the
// packets may not.
func TestExact(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		n := newNode(t)
		r := oracle.NewRandom(4)
		s := r.State()
		n.newChain(fault{}).become(s)
		n.must(exact(s, n.set.Maps))
		for name, key := range map[string]any{
			"backends": uint32(1 << 11),
			"services": uint32(1 << 11),
		} {
			m := n.set.Maps[name]
			value := make([]byte, m.ValueSize())
			for i := range value {
				value[i] = 1
			}
			n.must(m.Put(key, value))
			if exact(s, n.set.Maps) == nil {
				t.Errorf("an entry of %s that is nobody's was not found", name)
			}
			n.must(m.Put(key, make([]byte, m.ValueSize())))
		}
		for key := range mustRead(t, n).frontends {
			n.must(n.set.Maps["frontends"].Delete(key))
			if exact(s, n.set.Maps) == nil {
				t.Errorf("a frontend that is missing was not found")
			}
			break
		}
	})
}

func mustRead(t *testing.T, n *node) *kernelMaps {
	t.Helper()
	k, err := readMaps(n.set.Maps)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
