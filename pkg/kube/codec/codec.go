// SPDX-License-Identifier: Apache-2.0

// Package codec makes the REST clients of the API groups that Patchbay speaks to,
// with the types of those alone.
package codec

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

const (
	typeJSON  = "application/json"
	typeProto = "application/vnd.kubernetes.protobuf"
)

// newScheme knows the types that we exchange with the API server, and no other.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{},
		&corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Pod{}, &corev1.PodList{},
		&corev1.Event{}, &corev1.Secret{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	s.AddKnownTypes(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{})
	s.AddKnownTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{})
	for _, gv := range groups() {
		metav1.AddToGroupVersion(s, gv)
	}
	return s, v1alpha1.AddToScheme(s)
}

func groups() []schema.GroupVersion {
	return []schema.GroupVersion{
		corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion,
		coordinationv1.SchemeGroupVersion, v1alpha1.GroupVersion(),
	}
}

// Clients returns a client per API group, over one transport. Kubernetes'
// own objects come as protobuf; custom ones only exist as JSON. What we send is
// little, and JSON.
func Clients(config *rest.Config) (map[schema.GroupVersion]*rest.RESTClient, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	out := map[schema.GroupVersion]*rest.RESTClient{}
	for _, gv := range groups() {
		c := rest.CopyConfig(config)
		c.GroupVersion = &gv
		c.NegotiatedSerializer = codecs
		c.ContentType, c.AcceptContentTypes = typeJSON, typeProto+","+typeJSON
		c.APIPath = "/apis"
		if gv.Group == "" {
			c.APIPath = "/api"
		}
		if gv.Group == v1alpha1.Group {
			c.AcceptContentTypes = typeJSON
		}
		if out[gv], err = rest.RESTClientForConfigAndClient(c, http); err != nil {
			return nil, err
		}
	}
	return out, nil
}
