// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind is what kind of address a frontend has. The lower kind wins a frontend
// that two Services claim: nobody takes over a ClusterIP.
type Kind uint8

// The kinds.
const (
	ClusterIP Kind = iota
	NodePort
	LoadBalancer
	ExternalIP
)

// String names it.
func (k Kind) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"}[k]
}

// Frontend is an address, port and protocol that a Service is reached at.
type Frontend struct {
	Addr     netip.AddrPort
	Protocol corev1.Protocol
	Outside  bool // for packets from outside the cluster; else for the cluster's
	Kind     Kind
	Service  string // "namespace/name"

	Backends     []netip.AddrPort // sorted
	Serving      []netip.AddrPort // all that serve, chosen or not
	Elsewhere    bool             // no backends here, but another node has some
	Affinity     time.Duration
	SourceRanges []netip.Prefix // of the address's family; empty: everybody
	Internal     bool           // NodePort: open on NICs of role internal
	External     bool           // NodePort: open on NICs of role external
}

// admits tells whether the source ranges let a client in.
func (f Frontend) admits(client netip.Addr) bool {
	return len(f.SourceRanges) == 0 || contains(f.SourceRanges, client)
}

// opens tells whether a NodePort is open on NICs of a role.
func (f Frontend) opens(external bool) bool { return external && f.External || !external && f.Internal }

// Frontends returns all frontends that the node serves, each once, sorted. From
// then on the state must not change.
func (s *State) Frontends() []Frontend {
	if s.frontends == nil {
		s.frontends = s.list()
	}
	return s.frontends
}

func (s *State) list() []Frontend {
	var all []Frontend
	for _, svc := range s.Services {
		for _, port := range svc.Spec.Ports {
			all = append(all, s.PortFrontends(svc, port)...)
		}
	}
	slices.SortStableFunc(all, func(a, b Frontend) int {
		return cmp.Or(a.compare(b), cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Service, b.Service))
	})
	return slices.CompactFunc(all, func(a, b Frontend) bool { return a.compare(b) == 0 })
}

// compare orders by what a packet is looked up by.
func (f Frontend) compare(o Frontend) int {
	outside := map[bool]int{true: 1}
	return cmp.Or(f.Addr.Compare(o.Addr), strings.Compare(string(f.Protocol), string(o.Protocol)),
		cmp.Compare(outside[f.Outside], outside[o.Outside]))
}

// ignored tells whether nobody serves it: no cluster address, or another
// proxy's, whatever the label says.
func ignored(svc *corev1.Service) bool {
	_, others := svc.Labels["service.kubernetes.io/service-proxy-name"]
	return others || svc.Spec.Type == corev1.ServiceTypeExternalName ||
		svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone
}

// PortFrontends returns the frontends that one port of a Service claims.
func (s *State) PortFrontends(svc *corev1.Service, port corev1.ServicePort) []Frontend {
	var all []Frontend
	if ignored(svc) {
		return nil
	}
	spec := &svc.Spec
	for _, ip := range addrs(spec.ClusterIPs) {
		all = append(all, s.make(svc, port, ClusterIP, ip, port.Port, false))
	}
	both := func(kind Kind, ip netip.Addr, number int32) {
		if hasFamily(svc, ip) {
			all = append(all, s.make(svc, port, kind, ip, number, false), s.make(svc, port, kind, ip, number, true))
		}
	}
	if port.NodePort != 0 {
		for _, nic := range s.NICs {
			for _, ip := range nic.Addrs {
				both(NodePort, ip, port.NodePort)
			}
		}
		all = append(all, s.othersNodePorts(svc, port)...)
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			for _, ip := range addrs([]string{in.IP}) {
				both(LoadBalancer, ip, port.Port)
			}
		}
	}
	for _, ip := range addrs(spec.ExternalIPs) {
		// Nobody takes over another Service's address, or a node's.
		if !contains(s.ServiceRanges, ip) && !contains(s.Pools, ip) && !s.isNode(ip) {
			both(ExternalIP, ip, port.Port)
		}
	}
	return all
}

// othersNodePorts returns a NodePort at the other nodes' addresses: who is in
// the cluster need not go there, unless only endpoints there may serve it.
func (s *State) othersNodePorts(svc *corev1.Service, port corev1.ServicePort) []Frontend {
	var all []Frontend
	if externalLocal(svc) {
		return nil
	}
	for _, n := range s.Nodes {
		if n.Name == s.Node {
			continue
		}
		for _, ip := range nodeAddrs(n) {
			if hasFamily(svc, ip) {
				all = append(all, s.make(svc, port, NodePort, ip, port.NodePort, false))
			}
		}
	}
	return all
}

// make fills in a frontend.
func (s *State) make(svc *corev1.Service, port corev1.ServicePort, kind Kind, ip netip.Addr, number int32, outside bool) Frontend {
	f := Frontend{
		Addr: netip.AddrPortFrom(ip, uint16(number)), Protocol: port.Protocol, Outside: outside,
		Kind: kind, Service: svc.Namespace + "/" + svc.Name,
		Affinity: affinity(svc),
	}
	all := s.Port(svc, port, ip.Is4())
	f.Serving = sorted(filter(all.Endpoints, func(e Endpoint) bool { return e.Ready || e.Serving }))
	chosen := all.Choose()
	// Who is in the cluster gets all endpoints at an address that is open to the
	// outside, whatever the policies.
	if kind == ClusterIP && internalLocal(svc) || outside && externalLocal(svc) {
		f.Backends = chosen.Local
		f.Elsewhere = len(chosen.Local) == 0 && chosen.Any
	} else {
		f.Backends = chosen.Cluster
	}
	switch kind {
	case LoadBalancer:
		f.SourceRanges = sourceRanges(svc, ip)
	case NodePort:
		f.Internal, f.External = nodePortRoles(svc)
	}
	return f
}

// affinity returns how long a client stays with its backend; 0: not at all.
func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return 3 * time.Hour
}

func internalLocal(svc *corev1.Service) bool {
	p := svc.Spec.InternalTrafficPolicy
	return p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal
}

func externalLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// hasFamily tells whether the Service has a ClusterIP of ip's family.
func hasFamily(svc *corev1.Service, ip netip.Addr) bool {
	return slices.ContainsFunc(addrs(svc.Spec.ClusterIPs), func(own netip.Addr) bool { return own.Is4() == ip.Is4() })
}

// sourceRanges returns the ranges of ip's family; blanks around them don't
// matter. If the Service has only ranges of the other family, all are let in.
func sourceRanges(svc *corev1.Service, ip netip.Addr) []netip.Prefix {
	var own []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		r := netip.MustParsePrefix(strings.TrimSpace(text))
		if r.Addr().Is4() != ip.Is4() {
			continue
		}
		if r.Bits() == 0 {
			return nil
		}
		own = append(own, r.Masked())
	}
	return own
}

// nodePortRoles returns the roles of the NICs that a Service's NodePorts are
// open on: internal, unless the Service says otherwise.
func nodePortRoles(svc *corev1.Service) (internal, external bool) {
	text := svc.Annotations["patchbay.net/nodeport-nics"]
	if text == "" {
		return true, false
	}
	return strings.Contains(text, "internal"), strings.Contains(text, "external")
}

// addrs reads addresses.
func addrs(list []string) []netip.Addr {
	var all []netip.Addr
	for _, text := range list {
		if text != "" {
			all = append(all, netip.MustParseAddr(text))
		}
	}
	return all
}
