// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind is an object's kind as in its YAML, without the group: the kinds that
// Patchbay reads are unique by it.
type Kind string

// Kubernetes' own kinds.
const (
	KindService       Kind = "Service"
	KindEndpointSlice Kind = "EndpointSlice"
	KindNode          Kind = "Node"
	KindNamespace     Kind = "Namespace"
	KindPod           Kind = "Pod"
	KindNetworkPolicy Kind = "NetworkPolicy"
)

// The kinds of group patchbay.net.
const (
	KindIPPool           Kind = "IPPool"
	KindIPBlock          Kind = "IPBlock"
	KindIPAllocation     Kind = "IPAllocation"
	KindVirtualSwitch    Kind = "VirtualSwitch"
	KindNodeRoute        Kind = "NodeRoute"
	KindNodePolicy       Kind = "NodePolicy"
	KindBGPPeer          Kind = "BGPPeer"
	KindNodeNetworkState Kind = "NodeNetworkState"
)

// Type describes how a kind is found in the API and made in Go.
type Type struct {
	Kind       Kind
	Version    schema.GroupVersion
	Resource   string // plural, as in the API's paths
	Namespaced bool
	New        func() Object // an empty object
}

// GroupVersionKind returns what stands in an object's apiVersion and kind.
func (t Type) GroupVersionKind() schema.GroupVersionKind {
	return t.Version.WithKind(string(t.Kind))
}

// Types returns all types, Kubernetes' first.
func Types() []Type {
	core, net := corev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion
	return []Type{
		{KindService, core, "services", true, func() Object { return &corev1.Service{} }},
		{KindEndpointSlice, discoveryv1.SchemeGroupVersion, "endpointslices", true, func() Object { return &discoveryv1.EndpointSlice{} }},
		{KindNode, core, "nodes", false, func() Object { return &corev1.Node{} }},
		{KindNamespace, core, "namespaces", false, func() Object { return &corev1.Namespace{} }},
		{KindPod, core, "pods", true, func() Object { return &corev1.Pod{} }},
		{KindNetworkPolicy, net, "networkpolicies", true, func() Object { return &networkingv1.NetworkPolicy{} }},
	}
}

// TypeOf returns the type of a kind.
func TypeOf(kind Kind) (Type, error) {
	for _, t := range Types() {
		if t.Kind == kind {
			return t, nil
		}
	}
	return Type{}, fmt.Errorf("kind %q: not one that is read here", kind)
}
