// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router that nodes tell their routes to.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.asn`
// +kubebuilder:printcolumn:name="Local ASN",type=integer,JSONPath=`.spec.localASN`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec BGPPeerSpec `json:"spec"`
	// +optional
	Status BGPPeerStatus `json:"status,omitzero"`
}

// BGPPeerList is a list of BGPPeers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []BGPPeer `json:"items"`
}

// BGPPeerSpec says how the router is spoken to.
type BGPPeerSpec struct {
	// NodeSelector selects the nodes that speak to the peer; all if left out.
	// +optional
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
	// Address of the peer.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an address"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast()",message="must be a unicast address that isn't link-local or loopback"
	Address string `json:"address"`
	// Port of the peer.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`
	// ASN is the peer's autonomous system number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	ASN int64 `json:"asn"`
	// LocalASN is the nodes' autonomous system number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	LocalASN int64 `json:"localASN"`
	// HoldSeconds is how long a silent peer is believed in.
	// +optional
	// +kubebuilder:default=90
	// +kubebuilder:validation:Minimum=3
	// +kubebuilder:validation:Maximum=65535
	HoldSeconds *int32 `json:"holdSeconds,omitempty"`
}

// BGPPeerStatus says how the sessions fare.
type BGPPeerStatus struct {
	// Conditions: Established, with the nodes in its message.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Default sets what is left out.
func (p *BGPPeer) Default() {
	if p.Spec.Port == nil {
		port := int32(179)
		p.Spec.Port = &port
	}
	if p.Spec.HoldSeconds == nil {
		hold := int32(90)
		p.Spec.HoldSeconds = &hold
	}
}

// Validate returns all that is wrong with the peer.
func (p *BGPPeer) Validate() error {
	c := newChecks("BGPPeer", p)
	s := &p.Spec
	s.NodeSelector.check(c, "spec.nodeSelector")
	c.unicast("spec.address", s.Address)
	if s.Port != nil {
		c.between("spec.port", int64(*s.Port), 1, 65535)
	}
	c.between("spec.asn", s.ASN, 1, 1<<32-1)
	c.between("spec.localASN", s.LocalASN, 1, 1<<32-1)
	if s.HoldSeconds != nil {
		c.between("spec.holdSeconds", int64(*s.HoldSeconds), 3, 65535)
	}
	return c.err()
}
