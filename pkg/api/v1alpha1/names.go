// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 has the objects of group patchbay.net: address pools and
// what was given out of them, switches, routes and policies of nodes, and what
// each node reports. All are cluster-scoped.
//
// Each object has Default, which sets what is left out, and Validate, which
// names object and field of all that is wrong. The CRDs under deploy/crds are
// generated from the types here and hold the same rules as schema and CEL; a
// test runs one table of objects through both.
//
// +kubebuilder:object:generate=true
// +groupName=patchbay.net
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object:headerFile=header.go.txt crd:headerFile=../../../deploy/crds/header.txt paths=. output:object:dir=. output:crd:dir=../../../deploy/crds

// Group is the API group of all objects here.
const Group = "patchbay.net"

// LoadBalancerClass is the spec.loadBalancerClass of the Services that get
// their address from Patchbay.
const LoadBalancerClass = Group + "/lb"

// Conditions of a Service: whether it has the addresses that it wants, whether
// another machine claims one of them, and whether a node can't reach one.
const (
	ConditionAddress     = Group + "/Address"
	ConditionConflict    = Group + "/AddressConflict"
	ConditionUnreachable = Group + "/AddressUnreachable"
)

// Annotations on Services.
const (
	// AnnotationAddresses asks for addresses, separated by commas: on a Service
	// its LoadBalancer addresses, one per family; on a pod or namespace the
	// pods' fixed addresses.
	AnnotationAddresses = Group + "/addresses"
	// AnnotationPools names the IPPools to take addresses from, separated by
	// commas; on Services, pods and namespaces.
	AnnotationPools = Group + "/pools"
	// AnnotationSharingKey lets Services with the same key share an address, as
	// long as their ports differ. With externalTrafficPolicy Local they must also
	// have the same selector: one node has to serve them all.
	AnnotationSharingKey = Group + "/sharing-key"
	// AnnotationNodePortNICs names the roles of the NICs on which the Service's
	// NodePorts are open: internal, external, or both, separated by a comma.
	AnnotationNodePortNICs = Group + "/nodeport-nics"
	// AnnotationPreferredNodes names the nodes that announce the Service's
	// addresses while they can, separated by commas, best first.
	AnnotationPreferredNodes = Group + "/preferred-nodes"
	// AnnotationAnnounceNICs names the external NICs on which the Service's
	// addresses are announced, separated by commas.
	AnnotationAnnounceNICs = Group + "/announce-nics"
	// AnnotationUDPMode says how UDP packets find their backend: flow (default)
	// or packet.
	AnnotationUDPMode = Group + "/udp-mode"
)

// Annotations on pods.
const (
	// AnnotationNetworks names the pod's further legs on switches: internal or
	// external, separated by commas, each with @interface if it shall have a name
	// in particular; or a JSON list of {name, interface, ips, mac, pools, mtu}.
	// Addresses come from the pools of use Node that are on the switch, from those
	// that are named, or are the ips given. Any ips that no such pool has, and a
	// mac, need AnnotationFreeAddresses on the namespace.
	AnnotationNetworks = Group + "/networks"
	// AnnotationNetworksStandard is the same by the name that the Network
	// Plumbing Working Group gave it; read where ours is absent.
	AnnotationNetworksStandard = "k8s.v1.cni.cncf.io/networks"
	// AnnotationIngressBandwidth limits what a pod receives: not supported, and
	// a pod that has it is refused.
	AnnotationIngressBandwidth = "kubernetes.io/ingress-bandwidth"
	// AnnotationEgressBandwidth limits what a pod sends: refused as well.
	AnnotationEgressBandwidth = "kubernetes.io/egress-bandwidth"
)

// AnnotationFreeAddresses, "true" on a Namespace, lets its pods' legs have any MAC
// address, and any address that isn't a pool's, a node's, or of the pods or
// Services: who may write it may speak for other machines on the switches.
const AnnotationFreeAddresses = Group + "/free-addresses"

// GroupVersion returns patchbay.net/v1alpha1.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: "v1alpha1"}
}

// AddToScheme makes all objects and their lists known to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion(),
		&IPPool{}, &IPPoolList{},
		&IPBlock{}, &IPBlockList{},
		&IPAllocation{}, &IPAllocationList{},
		&VirtualSwitch{}, &VirtualSwitchList{},
		&NodeRoute{}, &NodeRouteList{},
		&NodePolicy{}, &NodePolicyList{},
		&BGPPeer{}, &BGPPeerList{},
		&NodeNetworkState{}, &NodeNetworkStateList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion())
	return nil
}
