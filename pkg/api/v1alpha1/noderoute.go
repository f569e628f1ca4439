// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeRoute is a custom route on nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Destination",type=string,JSONPath=`.spec.destination`
// +kubebuilder:printcolumn:name="Next hop",type=string,JSONPath=`.spec.nextHop`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Metric",type=integer,JSONPath=`.spec.metric`
type NodeRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec NodeRouteSpec `json:"spec"`
	// +optional
	Status NodeRouteStatus `json:"status,omitzero"`
}

// NodeRouteList is a list of NodeRoutes.
//
// +kubebuilder:object:root=true
type NodeRouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NodeRoute `json:"items"`
}

// NodeRouteSpec is the route.
//
// +kubebuilder:validation:XValidation:rule="!has(self.nextHop) || !isIP(self.nextHop) || (isIP(self.destination) ? ip(self.destination).family() : cidr(self.destination).ip().family()) == ip(self.nextHop).family()",message="nextHop: must be of the destination's family"
type NodeRouteSpec struct {
	// NodeSelector selects the nodes that get the route; all if left out.
	// +optional
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
	// Interface is the NIC that the route leads out of. One with a dynamic
	// address of the route's family is refused.
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\s/:]{1,15}$') && self != '.' && self != '..'",message="must be the name of a network device"
	Interface string `json:"interface"`
	// Destination is an address, or a prefix without host bits; a default route
	// is none of these.
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isIP(self) || isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be an address, or a prefix without host bits"
	// +kubebuilder:validation:XValidation:rule="isIP(self) ? ip(self).isGlobalUnicast() : !isCIDR(self) || cidr(self).ip().isGlobalUnicast()",message="must be of unicast addresses that aren't link-local or loopback, and not a default route"
	Destination string `json:"destination"`
	// NextHop is the router; left out where the destination is on the link.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast())",message="must be a unicast address"
	NextHop string `json:"nextHop,omitempty"`
	// Metric orders routes to one destination: the lowest first.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	Metric *int32 `json:"metric,omitempty"`
}

// NodeRouteStatus says which nodes have the route; brought together by the
// controller from each node's NodeNetworkState.
type NodeRouteStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=node
	Nodes []NodeRouteNode `json:"nodes,omitempty"`
}

// NodeRouteNode is the route's fate on one node.
type NodeRouteNode struct {
	Node string `json:"node"`
	// State says what became of the route.
	State RouteState `json:"state"`
	// Message says why it isn't in force, or what stands before it.
	// +optional
	Message string `json:"message,omitempty"`
}

// RouteState says what became of a route on a node.
//
// +kubebuilder:validation:Enum=Applied;Waiting;Refused
type RouteState string

// The fates of a route.
const (
	RouteApplied RouteState = "Applied" // in force
	RouteWaiting RouteState = "Waiting" // not in force while its interface is down
	RouteRefused RouteState = "Refused" // not in force; the message says why
)

// Default sets what is left out.
func (r *NodeRoute) Default() {
	if r.Spec.Metric == nil {
		metric := int32(100)
		r.Spec.Metric = &metric
	}
}

// Validate returns all that is wrong with the route.
func (r *NodeRoute) Validate() error {
	c := newChecks("NodeRoute", r)
	s := &r.Spec
	s.NodeSelector.check(c, "spec.nodeSelector")
	c.device("spec.interface", s.Interface)
	destination, ok := c.addrOrPrefix("spec.destination", s.Destination)
	if ok && destination.Bits() == 0 {
		c.add("spec.destination", "%s is the default route, which stays the system's", s.Destination)
	} else if ok && !destination.Addr().IsGlobalUnicast() {
		c.add("spec.destination", "%s must be of unicast addresses that aren't link-local or loopback, and not a default route", s.Destination)
	}
	if s.NextHop != "" {
		hop, hopOK := c.addr("spec.nextHop", s.NextHop)
		if hopOK && !hop.IsGlobalUnicast() && !hop.IsLinkLocalUnicast() {
			c.add("spec.nextHop", "%s must be a unicast address", hop)
		}
		if ok && hopOK && hop.Is4() != destination.Addr().Is4() {
			c.add("spec.nextHop", "%s must be of the family of destination %s", hop, s.Destination)
		}
	}
	if s.Metric != nil {
		c.between("spec.metric", int64(*s.Metric), 1, 1<<31-1)
	}
	return c.err()
}
