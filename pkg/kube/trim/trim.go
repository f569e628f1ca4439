// SPDX-License-Identifier: Apache-2.0

// Package trim makes objects smaller as they come from the API.
package trim

import (
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Object takes from an object what nobody here reads: on a node with many pods
// that is most of it.
func Object(obj source.Object) {
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	obj.SetManagedFields(nil)
	if annotations := obj.GetAnnotations(); annotations != nil {
		delete(annotations, corev1.LastAppliedConfigAnnotation)
	}
	switch obj := obj.(type) {
	case *corev1.Pod:
		trimPod(obj)
	case *corev1.Node:
		trimNode(obj)
	case *discoveryv1.EndpointSlice:
		trimSlice(obj)
	}
}

// trimSlice makes a slice as small as it can be: there may be a hundred thousand
// endpoints, on few nodes.
func trimSlice(slice *discoveryv1.EndpointSlice) {
	slice.OwnerReferences, slice.GenerateName = nil, ""
	slice.Endpoints = slices.Clone(slice.Endpoints) // without the room left for more
	shared := map[string]*string{}
	share := func(p *string) *string {
		if p == nil {
			return nil
		}
		if shared[*p] == nil {
			one := unique.Make(*p).Value()
			shared[one] = &one
		}
		return shared[*p]
	}
	yes, no := true, false
	flag := func(p *bool) *bool {
		switch {
		case p == nil:
			return nil
		case *p:
			return &yes
		}
		return &no
	}
	for i := range slice.Endpoints {
		ep := &slice.Endpoints[i]
		ep.TargetRef, ep.Hostname, ep.DeprecatedTopology = nil, nil, nil
		ep.NodeName, ep.Zone = share(ep.NodeName), share(ep.Zone)
		c := &ep.Conditions
		c.Ready, c.Serving, c.Terminating = flag(c.Ready), flag(c.Serving), flag(c.Terminating)
	}
}

func trimPod(pod *corev1.Pod) {
	pod.OwnerReferences, pod.Finalizers = nil, nil
	spec := corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if len(c.Ports) > 0 { // named ports, for policies
				spec.Containers = append(spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
			}
		}
	}
	pod.Spec = spec
	pod.Status = corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs, HostIP: pod.Status.HostIP, HostIPs: pod.Status.HostIPs}
}

func trimNode(node *corev1.Node) {
	status := corev1.NodeStatus{Addresses: node.Status.Addresses}
	for _, c := range node.Status.Conditions { // without the heartbeat, which would be a change
		status.Conditions = append(status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime})
	}
	node.Status = status
}
