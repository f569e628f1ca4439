// SPDX-License-Identifier: Apache-2.0

// Package service computes what kube-proxy computes: from Services, their
// endpoints and this node, the list of frontends and the backends behind each.
// It is pure: no I/O, no clock, no state; the same input in any order gives the
// same result. It knows nothing of Kubernetes' object types (source/convert
// turns those into the values here) and nothing of eBPF (datapath turns the
// result into maps).
//
//	entries := service.Build(service.Input{Node: node, Services: services, Endpoints: endpoints})
package service

import (
	"net/netip"
	"strconv"
	"time"
)

// Protocol is an IANA protocol number.
type Protocol uint8

// The protocols a Service can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name that Kubernetes uses: "TCP", "UDP" or "SCTP".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// Scope tells from where a frontend is reached.
type Scope uint8

const (
	// Cluster is for pods and for the processes of nodes.
	Cluster Scope = iota
	// External is for packets that came in from a NIC and are not from the cluster.
	External
)

// String returns "cluster" or "external".
func (s Scope) String() string {
	if s == External {
		return "external"
	}
	return "cluster"
}

// Kind is what kind of address a frontend has.
type Kind uint8

// The kinds in order of precedence: where two Services claim one frontend,
// the lower kind has it.
const (
	ClusterIP Kind = iota
	NodePort
	LoadBalancer
	ExternalIP
)

// String returns the kind's name as Kubernetes spells it.
func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case NodePort:
		return "NodePort"
	case LoadBalancer:
		return "LoadBalancer"
	case ExternalIP:
		return "ExternalIP"
	}
	return "kind " + strconv.Itoa(int(k))
}

// Action is what happens to packets to a frontend without backends.
type Action uint8

const (
	// Reject answers with an ICMP error or a TCP reset: nobody serves it anywhere.
	Reject Action = iota
	// Drop is silent: another node serves it, this one may not.
	Drop
)

// String returns "reject" or "drop".
func (a Action) String() string {
	if a == Drop {
		return "drop"
	}
	return "reject"
}

// NICRoles is a set of NIC roles.
type NICRoles uint8

// The roles of a NIC that can accept NodePorts.
const (
	InternalNIC NICRoles = 1 << iota
	ExternalNIC
)

// Name names a Service.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// PortName names one port of a Service; Port is empty for an unnamed one.
type PortName struct{ Namespace, Name, Port string }

// String returns "namespace/name" or "namespace/name:port".
func (n PortName) String() string {
	s := n.Namespace + "/" + n.Name
	if n.Port != "" {
		s += ":" + n.Port
	}
	return s
}

// Address is where a Service's port is reached.
type Address struct {
	IP       netip.Addr
	Port     uint16
	Protocol Protocol
}

// String returns "address:port/protocol".
func (a Address) String() string {
	return netip.AddrPortFrom(a.IP, a.Port).String() + "/" + a.Protocol.String()
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Service is a Service as far as the datapath is concerned. Headless Services,
// ExternalName and those of another proxy never become one. All addresses are
// unmapped.
type Service struct {
	Namespace, Name string
	ClusterIPs      []netip.Addr
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr // of status, those with ipMode VIP
	Ports           []Port

	Affinity      time.Duration // ClientIP affinity; 0: none
	UDPPerPacket  bool          // a UDP packet's backend is chosen for it alone, not for its flow
	ExternalLocal bool          // externalTrafficPolicy: Local
	InternalLocal bool          // internalTrafficPolicy: Local

	SourceRanges        []netip.Prefix // who may use the LoadBalancer addresses; empty: all
	HealthCheckNodePort uint16         // 0: none
	NodePortNICs        NICRoles       // NICs that accept the NodePorts; 0: Input.NodePortNICs
}

// ID returns the Service's name as a key.
func (s Service) ID() Name { return Name{s.Namespace, s.Name} }

// Endpoint is one address and port that serves a Service's port.
type Endpoint struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	PortName string
	Node     string // name of the node it runs on, if known

	Ready, Serving, Terminating bool

	NodeHints, ZoneHints []string // nodes and zones that should prefer it
}

// NodeInfo is the node to compute for.
type NodeInfo struct {
	Name, Zone string
	Addrs      []netip.Addr // on which NodePorts are open
	Others     []netip.Addr // the same of all other nodes
}

// Input is all that Build needs.
type Input struct {
	Node         NodeInfo
	NodePortNICs NICRoles // of Services that name none; 0: internal
	Services     []Service
	Endpoints    map[Name][]Endpoint
	// Suspect names nodes that are likely dead: flows begin with endpoints there
	// only where all others' nodes are suspect too.
	Suspect map[string]bool
}

// Frontend is what a packet or a connect() is looked up by.
type Frontend struct {
	Address
	Scope Scope
}

// String returns "address:port/protocol scope".
func (f Frontend) String() string { return f.Address.String() + " " + f.Scope.String() }

// Backend is an endpoint chosen to serve a frontend.
type Backend struct {
	Addr  netip.AddrPort
	Node  string
	Local bool
}

// Entry is a frontend and all that the datapath must know of it.
type Entry struct {
	Frontend      Frontend
	Port          PortName
	Kind          Kind
	Backends      []Backend        // sorted by address and port, without duplicates
	Serving       []netip.AddrPort // UDP: all endpoints that serve, chosen or not, sorted; flows to others end
	Empty         Action           // what happens to packets while Backends is empty
	Affinity      time.Duration
	SourceRanges  []netip.Prefix // sorted; empty: all sources
	Consistent    bool           // the slots are a Maglev table, the same on all nodes
	SocketLB      bool           // may be translated in connect() and sendmsg()
	PerPacket     bool           // UDP: each packet's backend is chosen for it alone
	NodePortRoles NICRoles       // for NodePort: the NICs that accept it; else 0
}
