// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
	"time"
)

// OpPodPlan asks what a pod gets, before its interface is made: PodRequest →
// PodPlan.
const OpPodPlan Op = "pod.plan"

// PodRequest names a pod whose ADD is under way. Empty fields are those that the
// runtime didn't say.
type PodRequest struct {
	EndpointKey
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`
	// Foreign: another IPAM plugin gives the primary interface's addresses.
	Foreign bool `json:"foreign,omitempty"`
}

// PodPlan is what a pod gets by its annotations, its namespace's, and the node's
// blocks.
type PodPlan struct {
	Pools    []AddressPool `json:"pools,omitempty"`    // one address out of each; none: as the CNI configuration says
	CoolDown time.Duration `json:"coolDown,omitempty"` // of these addresses once they are freed
	Legs     []Leg         `json:"legs,omitempty"`     // on switches, beside the primary interface
}

// AddressPool is a set of addresses, one of which is wanted.
type AddressPool struct {
	Name    string   `json:"name"`
	Subnets []Subnet `json:"subnets"`
}

// Subnet is a part of an AddressPool: all of Prefix, or the addresses from First to
// Last on the network Prefix.
type Subnet struct {
	Prefix  netip.Prefix   `json:"prefix"`
	First   netip.Addr     `json:"first,omitzero"`
	Last    netip.Addr     `json:"last,omitzero"`
	Exclude []netip.Prefix `json:"exclude,omitempty"`
}

// Leg is an interface of a pod on a virtual switch.
type Leg struct {
	IfName string        `json:"ifName"`
	Bridge string        `json:"bridge"`
	Pools  []AddressPool `json:"pools"`
	MAC    string        `json:"mac,omitempty"` // empty: derived
	MTU    int           `json:"mtu,omitempty"` // 0: the switch's
}

// PlanPod asks what a pod gets. An agent of before this operation answers
// CodeUnknown.
func (c Client) PlanPod(ctx context.Context, r PodRequest) (PodPlan, error) {
	var out PodPlan
	err := c.call(ctx, OpPodPlan, r, &out)
	return out, err
}
