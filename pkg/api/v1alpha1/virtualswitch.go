// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// VirtualSwitch is a switch on the device that nodes, VMs and pods have legs
// on; kept as declared by patchbayd in the role of the device.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Port",type=string,JSONPath=`.spec.port`
// +kubebuilder:printcolumn:name="VLAN",type=integer,JSONPath=`.spec.vlan`
// +kubebuilder:printcolumn:name="Bridge",type=string,JSONPath=`.status.bridge`
// +kubebuilder:printcolumn:name="Uplink",type=string,JSONPath=`.status.uplink`
type VirtualSwitch struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec VirtualSwitchSpec `json:"spec"`
	// +optional
	Status VirtualSwitchStatus `json:"status,omitzero"`
}

// VirtualSwitchList is a list of VirtualSwitches.
//
// +kubebuilder:object:root=true
type VirtualSwitchList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []VirtualSwitch `json:"items"`
}

// VirtualSwitchType says what a switch leads to.
//
// +kubebuilder:validation:Enum=Internal;External
type VirtualSwitchType string

// The types of a switch.
const (
	SwitchInternal VirtualSwitchType = "Internal" // a bridge whose traffic leaves by NAT, through whichever port has the default route
	SwitchExternal VirtualSwitchType = "External" // a bridge that a port of the device belongs to
)

// VirtualSwitchSpec says what a switch is made of.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'External' || has(self.port)",message="port: an External switch needs the port that it is bridged to"
// +kubebuilder:validation:XValidation:rule="self.type != 'Internal' || !has(self.port)",message="port: an Internal switch has none; its traffic leaves by the port with the default route"
// +kubebuilder:validation:XValidation:rule="self.type != 'Internal' || has(self.addresses) && size(self.addresses) > 0",message="addresses: an Internal switch needs one, the gateway of those that have legs on it"
// +kubebuilder:validation:XValidation:rule="self.type != 'External' || !has(self.addresses) || size(self.addresses) == 0",message="addresses: an External switch has its port's"
// +kubebuilder:validation:XValidation:rule="self.type != 'Internal' || !has(self.vlan)",message="vlan: only an External switch has one"
type VirtualSwitchSpec struct {
	// Type says what the switch leads to. It can't be changed later.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	Type VirtualSwitchType `json:"type"`
	// Port is the device's port that an External switch is bridged to. A bonded
	// or teamed port is refused.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\s/:]{1,15}$') && self != '.' && self != '..'",message="must be the name of a network device"
	Port string `json:"port,omitempty"`
	// VLAN is the tag of the switch's frames on the port; untagged if left out.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	VLAN *int32 `json:"vlan,omitempty"`
	// MTU of the switch; that of the port if left out, 1500 without one.
	// +optional
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`
	// Addresses are the device's own on an Internal switch, with their prefix
	// length: the gateways of those that have legs on it. An External switch takes
	// over its port's.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self).ip().isGlobalUnicast()",message="must be an address with its prefix length, such as 10.0.0.1/24"
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`
}

// VirtualSwitchStatus is what the device made of it.
type VirtualSwitchStatus struct {
	// Bridge is the network device that is the switch.
	// +optional
	Bridge string `json:"bridge,omitempty"`
	// Uplink is the port that its traffic leaves by.
	// +optional
	Uplink string `json:"uplink,omitempty"`
	// MTU that the switch has.
	// +optional
	MTU int32 `json:"mtu,omitempty"`
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Default sets what is left out: nothing.
func (s *VirtualSwitch) Default() {}

// Validate returns all that is wrong with the switch.
func (s *VirtualSwitch) Validate() error {
	c := newChecks("VirtualSwitch", s)
	spec := &s.Spec
	c.oneOf("spec.type", spec.Type, SwitchInternal, SwitchExternal)
	switch {
	case spec.Port != "":
		c.device("spec.port", spec.Port)
	case spec.Type == SwitchExternal:
		c.add("spec.port", "an External switch needs the port that it is bridged to")
	}
	if spec.Type == SwitchInternal && spec.Port != "" {
		c.add("spec.port", "an Internal switch has none; its traffic leaves by the port with the default route")
	}
	if spec.VLAN != nil {
		c.between("spec.vlan", int64(*spec.VLAN), 1, 4094)
		if spec.Type == SwitchInternal {
			c.add("spec.vlan", "only an External switch has one")
		}
	}
	if spec.MTU != nil {
		c.between("spec.mtu", int64(*spec.MTU), 1280, 65535)
	}
	spec.checkAddresses(c)
	return c.err()
}

func (spec *VirtualSwitchSpec) checkAddresses(c *checks) {
	switch n := len(spec.Addresses); {
	case spec.Type == SwitchInternal && n == 0:
		c.add("spec.addresses", "an Internal switch needs one, the gateway of those that have legs on it")
	case spec.Type == SwitchExternal && n > 0:
		c.add("spec.addresses", "an External switch has its port's")
	}
	c.count("spec.addresses", len(spec.Addresses), 16)
	c.distinct("spec.addresses", spec.Addresses)
	for i, text := range spec.Addresses {
		c.interfaceAddr(index("spec.addresses", i), text)
	}
}

// ValidateUpdate returns what may not be changed from the object before, and
// was.
func (s *VirtualSwitch) ValidateUpdate(old runtime.Object) error {
	c := newChecks("VirtualSwitch", s)
	before, ok := old.(*VirtualSwitch)
	if !ok {
		return fmt.Errorf("VirtualSwitch %s: not a VirtualSwitch before: %T", s.GetName(), old)
	}
	c.unchanged("spec.type", string(before.Spec.Type), string(s.Spec.Type))
	return c.err()
}
