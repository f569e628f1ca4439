// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"net/netip"
	"time"
)

// Info describes the agent and its node.
type Info struct {
	Version  string         `json:"version"`  // of the program
	Node     string         `json:"node"`     // the node's name
	Role     string         `json:"role"`     // "node" or "device"
	Source   string         `json:"source"`   // "kube" or "file:DIR"
	Synced   bool           `json:"synced"`   // the source has been read once since the start
	Ready    bool           `json:"ready"`    // STATUS would be OK
	Reason   string         `json:"reason"`   // why not ready
	BootID   string         `json:"bootID"`   // the kernel's
	Started  time.Time      `json:"started"`  // the agent's start
	Schema   int            `json:"schema"`   // version of the pinned maps
	Routing  string         `json:"routing"`  // auto, native or vxlan
	PodCIDRs []netip.Prefix `json:"podCIDRs"` // this node's blocks
	Counts   Counts         `json:"counts"`
	Problems []Problem      `json:"problems,omitempty"`
}

// Counts are the sizes of what the agent keeps.
type Counts struct {
	Pods      int `json:"pods"`
	Services  int `json:"services"`
	Frontends int `json:"frontends"`
	Backends  int `json:"backends"`
	Nodes     int `json:"nodes"`
	Announced int `json:"announced"`
}

// Problem is something that the agent could not use or do; the rest goes on.
type Problem struct {
	Object string    `json:"object"` // what it is about: file and document, or kind and name
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
}

// Pod is an endpoint as the agent keeps it.
type Pod struct {
	Endpoint
	Attached bool   `json:"attached"` // its programs are in force
	Problem  string `json:"problem,omitempty"`
	Node     string `json:"node,omitempty"` // where Kubernetes answers in the agent's place: then Attached isn't known
}

// Service is one frontend as it is in force.
type Service struct {
	Namespace    string         `json:"namespace"`
	Name         string         `json:"name"`
	Port         string         `json:"port"`     // the port's name, may be empty
	Kind         string         `json:"kind"`     // ClusterIP, NodePort, ExternalIP, LoadBalancer
	Frontend     netip.AddrPort `json:"frontend"` // address and port
	Protocol     string         `json:"protocol"` // TCP, UDP, SCTP
	Scope        string         `json:"scope"`    // cluster or external
	Empty        string         `json:"empty"`    // what happens without backends: reject or drop
	Affinity     time.Duration  `json:"affinity"` // zero: none
	SourceRanges []netip.Prefix `json:"sourceRanges,omitempty"`
	Backends     []Backend      `json:"backends"`
}

// Backend is one endpoint of a Service.
type Backend struct {
	Addr  netip.AddrPort `json:"addr"`
	Node  string         `json:"node"`
	Local bool           `json:"local"`
}

// Address is a LoadBalancer address as this node sees it.
type Address struct {
	Addr      netip.Addr    `json:"addr"`
	Pool      string        `json:"pool"`
	Services  []string      `json:"services"`  // namespace/name of each that has it
	Owner     string        `json:"owner"`     // the node that announces it
	Reason    string        `json:"reason"`    // why that one
	Announced bool          `json:"announced"` // answered by this node
	NIC       string        `json:"nic"`       // where it is answered
	Expires   time.Duration `json:"expires"`   // time left of the announcement, zero: never
}

// Lease is an IPAM lease of the node.
type Lease struct {
	EndpointKey
	Addrs        []netip.Addr `json:"addrs"`
	State        string       `json:"state"` // active, cooling or damaged
	Pool         string       `json:"pool"`
	PodNamespace string       `json:"podNamespace"`
	PodName      string       `json:"podName"`
	HostIfName   string       `json:"hostIfName"`
	Generation   uint64       `json:"generation"`
	Created      time.Time    `json:"created"`
}

// NIC is an interface of the node with its role.
type NIC struct {
	Name    string         `json:"name"`
	Index   int            `json:"index"`
	Role    string         `json:"role"`   // internal, external or ignored
	Reason  string         `json:"reason"` // why it has this role
	MAC     string         `json:"mac"`
	MTU     int            `json:"mtu"`
	Addrs   []netip.Prefix `json:"addrs"`
	Carrier bool           `json:"carrier"`
	Problem string         `json:"problem,omitempty"`
	// AltNames are the other names that it goes by.
	AltNames []string `json:"altNames,omitempty"`
	// Dynamic are the families, IPv4 and IPv6, with an address that came by DHCP
	// or router advertisement.
	Dynamic []string `json:"dynamic,omitempty"`
	// Programs hang on it, as "ingress name", in the order that packets meet them.
	Programs []string `json:"programs"`
}

// Drop counts the packets dropped for one reason since the maps were made.
type Drop struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}
