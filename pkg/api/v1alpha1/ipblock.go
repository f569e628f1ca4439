// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// IPBlock is a part of a pool that one node gives addresses out of: of a pool
// for pods, or single addresses of a pool for nodes, for legs that pods ask for.
// Made by the controller.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
type IPBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec IPBlockSpec `json:"spec"`
	// +optional
	Status IPBlockStatus `json:"status,omitzero"`
}

// IPBlockList is a list of IPBlocks.
//
// +kubebuilder:object:root=true
type IPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []IPBlock `json:"items"`
}

// BlockState says what a node does with a block.
//
// +kubebuilder:validation:Enum=Active;Draining
type BlockState string

// The states of a block.
const (
	BlockActive   BlockState = "Active"   // addresses are given out of it
	BlockDraining BlockState = "Draining" // those given out stay valid, no new ones
)

// IPBlockSpec says which addresses a node has.
type IPBlockSpec struct {
	// Pool is the name of the IPPool that the block is cut out of.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	Pool string `json:"pool"`
	// Node is the name of the node that has the block.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	Node string `json:"node"`
	// CIDR is the block's prefix.
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a prefix without host bits"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).ip().isGlobalUnicast()",message="must be of unicast addresses that aren't link-local or loopback"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	CIDR string `json:"cidr"`
	// State says whether addresses are given out of it.
	// +optional
	// +kubebuilder:default=Active
	State BlockState `json:"state,omitempty"`
	// Revision grows with each change of the state. A node repeats it when it has
	// acted on the change, so that what it said before isn't taken for an answer.
	// +optional
	Revision int64 `json:"revision,omitempty"`
}

// IPBlockStatus is what the node says of its block.
type IPBlockStatus struct {
	// Used is the number of addresses given out, resting ones included.
	Used int64 `json:"used"`
	// Free is the number of addresses left.
	Free int64 `json:"free"`
}

// Default sets what is left out.
func (b *IPBlock) Default() {
	if b.Spec.State == "" {
		b.Spec.State = BlockActive
	}
}

// Validate returns all that is wrong with the block.
func (b *IPBlock) Validate() error {
	c := newChecks("IPBlock", b)
	c.text("spec.pool", b.Spec.Pool, 253)
	c.text("spec.node", b.Spec.Node, 253)
	c.unicastPrefix("spec.cidr", b.Spec.CIDR)
	c.oneOf("spec.state", b.Spec.State, BlockActive, BlockDraining)
	return c.err()
}

// ValidateUpdate returns what may not be changed from the object before, and
// was.
func (b *IPBlock) ValidateUpdate(old runtime.Object) error {
	c := newChecks("IPBlock", b)
	before, ok := old.(*IPBlock)
	if !ok {
		return fmt.Errorf("IPBlock %s: not a IPBlock before: %T", b.GetName(), old)
	}
	c.unchanged("spec.pool", before.Spec.Pool, b.Spec.Pool)
	c.unchanged("spec.node", before.Spec.Node, b.Spec.Node)
	c.unchanged("spec.cidr", before.Spec.CIDR, b.Spec.CIDR)
	return c.err()
}
