// SPDX-License-Identifier: Apache-2.0

package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// trim takes from an object what nobody here reads: on a node with many pods
// that is most of it.
func trim(obj source.Object) {
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
