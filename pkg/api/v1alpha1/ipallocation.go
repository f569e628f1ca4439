// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// IPAllocation is the durable record of one LoadBalancer address: written
// before the address stands in a Service's status, and kept while the address
// rests. Its name comes from the address (AllocationName), so that there can't
// be two records of one.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.owners[0].namespace`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.owners[0].name`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
type IPAllocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec IPAllocationSpec `json:"spec"`
	// +optional
	Status IPAllocationStatus `json:"status,omitzero"`
}

// IPAllocationList is a list of IPAllocations.
//
// +kubebuilder:object:root=true
type IPAllocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []IPAllocation `json:"items"`
}

// AllocationState says what may be done with an address.
//
// +kubebuilder:validation:Enum=Reserved;Active;Cooling;Conflicted
type AllocationState string

// The states of an address.
const (
	AllocationReserved   AllocationState = "Reserved"   // chosen, and being probed for on the network
	AllocationActive     AllocationState = "Active"     // the owners' own
	AllocationCooling    AllocationState = "Cooling"    // freed, resting; its last owner gets it back
	AllocationConflicted AllocationState = "Conflicted" // another machine on the network uses it
)

// IPAllocationSpec says whose an address is.
//
// +kubebuilder:validation:XValidation:rule="!has(self.owners) || size(self.owners) <= 1 || has(self.sharingKey) && size(self.sharingKey) > 0",message="owners: only with a sharing key several Services have one address"
// +kubebuilder:validation:XValidation:rule="!(self.state in ['Reserved', 'Active']) || has(self.owners) && size(self.owners) > 0",message="owners: a reserved or active address has an owner"
type IPAllocationSpec struct {
	// Address is the address. It can't be changed later.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an address"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast()",message="must be a unicast address that isn't link-local or loopback"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	Address string `json:"address"`
	// Pool is the name of the IPPool that it comes from.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool"`
	// Owners are the Services that have the address, or, while it rests, had it:
	// one, or several that share it.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Owners []ServiceReference `json:"owners,omitempty"`
	// SharingKey is the key of the owners that lets them share the address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SharingKey string `json:"sharingKey,omitempty"`
	// State says what may be done with the address.
	// +optional
	// +kubebuilder:default=Reserved
	State AllocationState `json:"state,omitempty"`
	// Since is when it came into that state.
	// +optional
	Since metav1.Time `json:"since,omitzero"`
}

// ServiceReference names one Service, also after it was made again.
type ServiceReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// UID tells a Service from a later one by the same name.
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// IPAllocationStatus is what is seen of the address.
type IPAllocationStatus struct {
	// Announcer is the node that announces the address.
	// +optional
	Announcer string `json:"announcer,omitempty"`
	// Epoch rises whenever another node takes the address.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// Conflict is the last sight of another machine with the address.
	// +optional
	Conflict *AddressConflict `json:"conflict,omitempty"`
}

// AllocationName returns the name that an address's IPAllocation has: the
// address in full, with dashes for colons.
func AllocationName(addr netip.Addr) string {
	return strings.ReplaceAll(addr.Unmap().WithZone("").StringExpanded(), ":", "-")
}

// AllocationAddr returns the address of the IPAllocation of that name.
func AllocationAddr(name string) (netip.Addr, error) {
	return netip.ParseAddr(strings.ReplaceAll(name, "-", ":"))
}

// Default sets what is left out.
func (a *IPAllocation) Default() {
	if a.Spec.State == "" {
		a.Spec.State = AllocationReserved
	}
}

// Validate returns all that is wrong with the allocation.
func (a *IPAllocation) Validate() error {
	c := newChecks("IPAllocation", a)
	s := &a.Spec
	c.unicast("spec.address", s.Address)
	c.text("spec.pool", s.Pool, 253)
	c.oneOf("spec.state", s.State, AllocationReserved, AllocationActive, AllocationCooling, AllocationConflicted)
	c.count("spec.owners", len(s.Owners), 64)
	for i, owner := range s.Owners {
		c.text(index("spec.owners", i)+".namespace", owner.Namespace, 63)
		c.text(index("spec.owners", i)+".name", owner.Name, 63)
	}
	if s.SharingKey != "" {
		c.text("spec.sharingKey", s.SharingKey, 253)
	}
	if len(s.Owners) > 1 && s.SharingKey == "" {
		c.add("spec.owners", "only with a sharing key several Services have one address")
	}
	if len(s.Owners) == 0 && (s.State == AllocationReserved || s.State == AllocationActive) {
		c.add("spec.owners", "a reserved or active address has an owner")
	}
	return c.err()
}

// ValidateUpdate returns what may not be changed from the object before, and
// was.
func (a *IPAllocation) ValidateUpdate(old runtime.Object) error {
	c := newChecks("IPAllocation", a)
	before, ok := old.(*IPAllocation)
	if !ok {
		return fmt.Errorf("IPAllocation %s: not a IPAllocation before: %T", a.GetName(), old)
	}
	c.unchanged("spec.address", before.Spec.Address, a.Spec.Address)
	return c.err()
}
