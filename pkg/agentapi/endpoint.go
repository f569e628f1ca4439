// SPDX-License-Identifier: Apache-2.0

package agentapi

import "net/netip"

// EndpointKey names an attachment: CNI's container id and interface name. No
// two live attachments of a node share one.
type EndpointKey struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Endpoint is a pod's interface as the CNI plugin made it. endpoint.add hands
// it over when addresses, link, routes and neighbours are in place; the agent
// attaches its programs to the host end and answers when the endpoint's policy
// is in force. Adding the same endpoint again is no error: the last one counts.
type Endpoint struct {
	EndpointKey
	Network      string       `json:"network"`      // the CNI network's name
	Netns        string       `json:"netns"`        // path of the pod's network namespace
	HostIfName   string       `json:"hostIfName"`   // the veth's host end
	HostIfIndex  int          `json:"hostIfIndex"`  // its index in the node's namespace
	HostMAC      string       `json:"hostMAC"`      // its address: the gateway's, as the pod sees it
	MAC          string       `json:"mac"`          // the pod end's address
	Addrs        []netip.Addr `json:"addrs"`        // what the pod may send from
	Generation   uint64       `json:"generation"`   // the lease's; grows with each lease of the node
	PodNamespace string       `json:"podNamespace"` // empty if the runtime is not Kubernetes'
	PodName      string       `json:"podName"`
	PodUID       string       `json:"podUID"`

	Ports []PortMapping `json:"ports,omitempty"` // host ports that lead to the pod
}

// PortMapping is a port of the node that leads to one of the pod's. No two
// pods of a node have one port of an address: leases see to that.
type PortMapping struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"` // zero: every address of the node
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"` // tcp, udp or sctp
}

// EndpointDelete takes an attachment away. Key and generation decide; the rest
// helps an agent that has forgotten the endpoint. Deleting what isn't there is
// no error. A generation other than zero that is older than the endpoint's own
// leaves the endpoint alone: its key was used again meanwhile.
//
// The agent answers when map entries are out, and then removes the veth behind
// the answer, which takes 30 ms. Without HostIfIndex the link is gone already.
type EndpointDelete struct {
	EndpointKey
	HostIfName  string       `json:"hostIfName,omitempty"`
	HostIfIndex int          `json:"hostIfIndex,omitempty"`
	Addrs       []netip.Addr `json:"addrs,omitempty"`
	Generation  uint64       `json:"generation,omitempty"`
	// EndsLease has the agent release the lease of that generation once the link is
	// gone. It is marked as ended, so that another agent does, should this one die.
	EndsLease bool `json:"endsLease,omitempty"`
}

// GC names all attachments of a network that are still valid. The agent removes
// every other endpoint of that network and goes on after errors.
type GC struct {
	Network string        `json:"network"`
	Valid   []EndpointKey `json:"valid"`
}

// Status says whether the agent can serve an ADD now.
type Status struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why not
}
