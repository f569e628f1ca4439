// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
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
	core, net, own := corev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, v1alpha1.GroupVersion()
	return []Type{
		{KindService, core, "services", true, func() Object { return &corev1.Service{} }},
		{KindEndpointSlice, discoveryv1.SchemeGroupVersion, "endpointslices", true, func() Object { return &discoveryv1.EndpointSlice{} }},
		{KindNode, core, "nodes", false, func() Object { return &corev1.Node{} }},
		{KindNamespace, core, "namespaces", false, func() Object { return &corev1.Namespace{} }},
		{KindPod, core, "pods", true, func() Object { return &corev1.Pod{} }},
		{KindNetworkPolicy, net, "networkpolicies", true, func() Object { return &networkingv1.NetworkPolicy{} }},
		{KindIPPool, own, "ippools", false, func() Object { return &v1alpha1.IPPool{} }},
		{KindIPBlock, own, "ipblocks", false, func() Object { return &v1alpha1.IPBlock{} }},
		{KindIPAllocation, own, "ipallocations", false, func() Object { return &v1alpha1.IPAllocation{} }},
		{KindVirtualSwitch, own, "virtualswitches", false, func() Object { return &v1alpha1.VirtualSwitch{} }},
		{KindNodeRoute, own, "noderoutes", false, func() Object { return &v1alpha1.NodeRoute{} }},
		{KindNodePolicy, own, "nodepolicies", false, func() Object { return &v1alpha1.NodePolicy{} }},
		{KindBGPPeer, own, "bgppeers", false, func() Object { return &v1alpha1.BGPPeer{} }},
		{KindNodeNetworkState, own, "nodenetworkstates", false, func() Object { return &v1alpha1.NodeNetworkState{} }},
	}
}

// Distinct returns the kinds in their order, each once.
func Distinct(kinds []Kind) []Kind {
	var out []Kind
	for _, kind := range kinds {
		if !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	return out
}

// KindOf returns the kind of an object by its Go type.
func KindOf(obj Object) (Kind, error) {
	for _, t := range Types() {
		if reflect.TypeOf(t.New()) == reflect.TypeOf(obj) {
			return t.Kind, nil
		}
	}
	return "", fmt.Errorf("object of type %T: not of a kind that is read here", obj)
}

// Defaulter is an object that knows what its left-out fields mean.
type Defaulter interface{ Default() }

// Validator is an object that knows what may stand in it.
type Validator interface{ Validate() error }

// UpdateValidator is an object that knows what of it may not change. The object
// before is of the same type.
type UpdateValidator interface {
	ValidateUpdate(before runtime.Object) error
}

// Check sets an object's defaults and validates it, also as the successor of
// before where that isn't nil. Kubernetes' own objects are taken as they are:
// the API server has checked them.
func Check(obj, before Object) error {
	if d, ok := obj.(Defaulter); ok {
		d.Default()
	}
	if v, ok := obj.(Validator); ok {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	if u, ok := obj.(UpdateValidator); ok && before != nil {
		return u.ValidateUpdate(before)
	}
	return nil
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
