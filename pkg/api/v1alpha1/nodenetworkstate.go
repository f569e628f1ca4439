// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeNetworkState is what a node's agent reports of it: status only, named
// like the node, written by that node's agent alone.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="NICs",type=string,JSONPath=`.status.nics[*].name`
type NodeNetworkState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Status NodeNetworkStateStatus `json:"status,omitzero"`
}

// NodeNetworkStateList is a list of NodeNetworkStates.
//
// +kubebuilder:object:root=true
type NodeNetworkStateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NodeNetworkState `json:"items"`
}

// NodeNetworkStateStatus is the report. It changes when the node does, and has
// no clock in it.
type NodeNetworkStateStatus struct {
	// Version of the agent.
	// +optional
	Version string `json:"version,omitempty"`
	// NICs of the node.
	// +optional
	// +listType=map
	// +listMapKey=name
	NICs []NICState `json:"nics,omitempty"`
	// Routes are the NodeRoutes for this node.
	// +optional
	// +listType=map
	// +listMapKey=name
	Routes []NodeRouteState `json:"routes,omitempty"`
	// Switches that this node has legs on, or, on the device, keeps.
	// +optional
	// +listType=map
	// +listMapKey=name
	Switches []SwitchState `json:"switches,omitempty"`
	// Blocks that the node gives pods' addresses out of.
	// +optional
	// +listType=map
	// +listMapKey=cidr
	Blocks []NodeBlockState `json:"blocks,omitempty"`
	// AddressWants are addresses that pods wait for and the node has no block for.
	// +optional
	// +listType=atomic
	AddressWants []AddressWant `json:"addressWants,omitempty"`
	// Announcements are the addresses that this node announces.
	// +optional
	// +listType=map
	// +listMapKey=address
	Announcements []AnnouncementState `json:"announcements,omitempty"`
	// Probes are the searches for other machines with addresses that are reserved,
	// or were found in use.
	// +optional
	// +listType=map
	// +listMapKey=address
	Probes []ProbeState `json:"probes,omitempty"`
	// Conflicts are the addresses announced by this node that other machines claim.
	// +optional
	// +listType=map
	// +listMapKey=address
	Conflicts []AddressConflict `json:"conflicts,omitempty"`
	// Verified are addresses of other nodes that this node asked for over the
	// wire, as a machine outside would.
	// +optional
	// +listType=map
	// +listMapKey=address
	Verified []AddressVerification `json:"verified,omitempty"`
	// Conditions: Ready, and one for each thing that is wrong.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NICState is one network interface of a node.
type NICState struct {
	Name string `json:"name"`
	// Role is internal, external or ignored.
	Role string `json:"role"`
	// Reason says why it has that role.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	MAC string `json:"mac,omitempty"`
	// +optional
	MTU int32 `json:"mtu,omitempty"`
	// Carrier says whether there is a link.
	Carrier bool `json:"carrier"`
	// Addresses with their prefix length.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
	// Gateways are the next hops of the node's routes by this NIC.
	// +optional
	// +listType=set
	Gateways []string `json:"gateways,omitempty"`
	// DynamicFamilies are the families, IPv4 and IPv6, with an address that came
	// by DHCP or router advertisement.
	// +optional
	// +listType=set
	DynamicFamilies []string `json:"dynamicFamilies,omitempty"`
}

// NodeRouteState is the fate of a NodeRoute on this node.
type NodeRouteState struct {
	// Name of the NodeRoute.
	Name string `json:"name"`
	// State says what became of it.
	State RouteState `json:"state"`
	// Message says why it isn't in force, or what stands before it.
	// +optional
	Message string `json:"message,omitempty"`
}

// SwitchState is a switch as seen from this node.
type SwitchState struct {
	// Name of the VirtualSwitch.
	Name string `json:"name"`
	// Device is the bridge, or the leg's interface.
	Device string `json:"device"`
	// Uplink is the port that the switch's traffic leaves by.
	// +optional
	Uplink string `json:"uplink,omitempty"`
	// Ready says whether it is as declared.
	Ready bool `json:"ready"`
	// Message says why it isn't.
	// +optional
	Message string `json:"message,omitempty"`
}

// NodeBlockState is the use of a block.
type NodeBlockState struct {
	CIDR string `json:"cidr"`
	// Pool is the IPPool it comes from; empty for node.spec.podCIDRs.
	// +optional
	Pool string `json:"pool,omitempty"`
	// Used is the number of addresses given out, resting ones included.
	Used int64 `json:"used"`
	// Free is the number of addresses left.
	Free int64 `json:"free"`
	// State is what the node does with the block; left out for node.spec.podCIDRs.
	// +optional
	State BlockState `json:"state,omitempty"`
	// Revision is that of the IPBlock's spec which the node has acted on.
	// +optional
	Revision int64 `json:"revision,omitempty"`
}

// AddressWant is what pods on the node ask for and it has no address of.
type AddressWant struct {
	// Pool is the IPPool to take from; empty for an address of any pool.
	// +optional
	Pool string `json:"pool,omitempty"`
	// Address is the one address that will do; empty for any of the pool.
	// +optional
	Address string `json:"address,omitempty"`
	// Count is how many pods wait for one.
	Count int32 `json:"count"`
}

// AnnouncementState is an address that the node announces.
type AnnouncementState struct {
	Address string `json:"address"`
	// Interfaces it is announced on.
	// +listType=set
	Interfaces []string `json:"interfaces"`
	// Epoch rises whenever another node takes the address: of two that report it,
	// one being dead perhaps, the later has it. 0: held since before the agent's
	// start.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// Reason is why the node took it.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Waived is what should have kept the node from it, and was set aside as no
	// other node could have it.
	// +optional
	Waived string `json:"waived,omitempty"`
}

// NodeConditionConflict, followed by the name of an address's IPAllocation, is the
// condition of a node that doesn't take the address as another machine uses it.
const NodeConditionConflict = "AddressConflict-"

// ProbeResult is how a search ended, or that it is on.
//
// +kubebuilder:validation:Enum=Free;Conflict;Searching
type ProbeResult string

// The results of a search.
const (
	ProbeFree     ProbeResult = "Free"     // nobody has the address
	ProbeConflict ProbeResult = "Conflict" // another machine has it

	// ProbeSearching: it takes long, as others search for the same address, or
	// after many conflicts on the network.
	ProbeSearching ProbeResult = "Searching"
)

// ProbeState is the search for other machines with an address.
type ProbeState struct {
	Address string `json:"address"`
	// Since is that of the IPAllocation that was searched for: what was found for
	// an earlier one says nothing.
	Since metav1.Time `json:"since"`
	// Result of the search.
	Result ProbeResult `json:"result"`
	// MAC is the hardware address that answered.
	// +optional
	MAC string `json:"mac,omitempty"`
	// Message says what else was noticed.
	// +optional
	Message string `json:"message,omitempty"`
}

// Default sets what is left out: nothing.
func (s *NodeNetworkState) Default() {}

// Validate returns all that is wrong with the report.
func (s *NodeNetworkState) Validate() error {
	c := newChecks("NodeNetworkState", s)
	for i, r := range s.Status.Routes {
		c.oneOf(index("status.routes", i)+".state", r.State, RouteApplied, RouteWaiting, RouteRefused)
	}
	return c.err()
}

// AddressVerification is what a node saw of another one's address.
type AddressVerification struct {
	Address string `json:"address"`
	// Node is the one that has the address.
	Node string `json:"node"`
	// Reachable says whether it answered as it should.
	Reachable bool `json:"reachable"`
	// Message says what was wrong.
	// +optional
	Message string `json:"message,omitempty"`
}
