// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"net/netip"
	"slices"
)

// Build returns every frontend that the node serves, sorted by frontend. Where
// several Services claim one frontend, one has it on all nodes alike: the
// lowest Kind (an externalIP never takes over a ClusterIP), then the first
// name. Entries share their slices; the caller must not change them.
func Build(in Input) []Entry {
	var entries []Entry
	for _, svc := range in.Services {
		entries = appendService(entries, in, svc)
	}
	slices.SortFunc(entries, compareEntries)
	return slices.CompactFunc(entries, func(a, b Entry) bool { return a.Frontend == b.Frontend })
}

// HealthCheck is what a health-check node port answers with.
type HealthCheck struct {
	Service   Name
	Port      uint16
	Endpoints int // ready ones on this node; 0 means 503
}

// HealthChecks returns the health-check node ports to open, sorted by Service.
func HealthChecks(in Input) []HealthCheck {
	var checks []HealthCheck
	for _, svc := range in.Services {
		if svc.HealthCheckNodePort == 0 {
			continue
		}
		local := map[netip.Addr]bool{}
		endpoints := in.Endpoints[svc.ID()]
		for i := range endpoints {
			if ep := &endpoints[i]; ep.Ready && in.Node.runs(ep) {
				local[ep.Addr] = true
			}
		}
		checks = append(checks, HealthCheck{svc.ID(), svc.HealthCheckNodePort, len(local)})
	}
	slices.SortFunc(checks, func(a, b HealthCheck) int { return a.Service.compare(b.Service) })
	return checks
}

// appendService appends the entries of all ports of one Service.
func appendService(entries []Entry, in Input, svc Service) []Entry {
	endpoints := in.Endpoints[svc.ID()]
	for _, port := range svc.Ports {
		b := builder{in: in, svc: svc, port: port}
		b.v4, b.v6 = choose(in, port, endpoints)
		entries = b.append(entries)
	}
	return entries
}

// builder makes the entries of one port of a Service.
type builder struct {
	in     Input
	svc    Service
	port   Port
	v4, v6 choice
}

func (b *builder) append(entries []Entry) []Entry {
	for _, ip := range b.svc.ClusterIPs {
		entries = append(entries, b.entry(ClusterIP, ip, b.port.Port, Cluster))
	}
	if b.port.NodePort != 0 {
		for _, ip := range b.in.Node.Addrs {
			if !ip.IsLoopback() {
				entries = b.appendBoth(entries, NodePort, ip, b.port.NodePort)
			}
		}
		entries = b.appendOthers(entries)
	}
	for _, ip := range b.svc.LoadBalancerIPs {
		entries = b.appendBoth(entries, LoadBalancer, ip, b.port.Port)
	}
	for _, ip := range b.svc.ExternalIPs {
		if !slices.Contains(b.in.Node.Addrs, ip) { // the node's own: other ports are its processes'
			entries = b.appendBoth(entries, ExternalIP, ip, b.port.Port)
		}
	}
	return entries
}

// appendBoth appends the entries of an address that is reached from both scopes.
func (b *builder) appendBoth(entries []Entry, kind Kind, ip netip.Addr, port uint16) []Entry {
	if !b.hasFamily(ip) {
		return entries
	}
	return append(entries, b.entry(kind, ip, port, Cluster), b.entry(kind, ip, port, External))
}

// appendOthers appends the NodePorts of other nodes. From within the cluster they
// are answered here: over there the client could be on a third node than the
// endpoint, which would answer it directly. Where only endpoints of the node
// asked may serve, that node has to be asked.
func (b *builder) appendOthers(entries []Entry) []Entry {
	if b.svc.ExternalLocal {
		return entries
	}
	for _, ip := range b.in.Node.Others {
		if b.hasFamily(ip) {
			entries = append(entries, b.entry(NodePort, ip, b.port.NodePort, Cluster))
		}
	}
	return entries
}

// hasFamily tells whether the Service has a ClusterIP of ip's family. Addresses
// of a family that it doesn't have are not served, as in kube-proxy, which is
// one proxy per family.
func (b *builder) hasFamily(ip netip.Addr) bool {
	return slices.ContainsFunc(b.svc.ClusterIPs, func(own netip.Addr) bool { return own.Is4() == ip.Is4() })
}

func (b *builder) entry(kind Kind, ip netip.Addr, port uint16, scope Scope) Entry {
	c := b.v4
	if ip.Is6() {
		c = b.v6
	}
	e := Entry{
		Frontend: Frontend{Address{ip, port, b.port.Protocol}, scope},
		Port:     PortName{b.svc.Namespace, b.svc.Name, b.port.Name},
		Kind:     kind,
		Backends: c.cluster,
		Serving:  c.serving,
		Affinity: b.svc.Affinity,
		// Which node a client's packets come in by may change; the backend should not.
		Consistent: scope == External,
	}
	if b.local(kind, scope) {
		e.Backends = c.local
		if len(c.local) == 0 && c.any {
			e.Empty = Drop
		}
	}
	switch kind {
	case NodePort:
		e.NodePortRoles = b.nodePortRoles()
	case LoadBalancer:
		e.SourceRanges = rangesOf(b.svc.SourceRanges, ip)
	}
	e.PerPacket = b.svc.UDPPerPacket && b.port.Protocol == UDP
	// A socket's source address isn't known yet at connect(), and it stays with its backend.
	e.SocketLB = scope == Cluster && len(e.Backends) > 0 && len(e.SourceRanges) == 0 && !e.PerPacket
	return e
}

// local tells whether only endpoints on this node may serve. From within the
// cluster an address that is open to the outside is short-cut to all endpoints,
// whatever the policies.
func (b *builder) local(kind Kind, scope Scope) bool {
	if kind == ClusterIP {
		return b.svc.InternalLocal
	}
	return scope == External && b.svc.ExternalLocal
}

func (b *builder) nodePortRoles() NICRoles {
	return cmp.Or(b.svc.NodePortNICs, b.in.NodePortNICs, InternalNIC)
}

// rangesOf returns the ranges of ip's family, sorted; nil if everybody is in
// one. Ranges of the other family alone restrict nothing, as in kube-proxy.
func rangesOf(ranges []netip.Prefix, ip netip.Addr) []netip.Prefix {
	var own []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is4() == ip.Is4() {
			if r.Bits() == 0 {
				return nil
			}
			own = append(own, r.Masked())
		}
	}
	slices.SortFunc(own, netip.Prefix.Compare)
	return slices.Compact(own)
}

func compareEntries(a, b Entry) int {
	return cmp.Or(
		a.Frontend.IP.Compare(b.Frontend.IP),
		cmp.Compare(a.Frontend.Port, b.Frontend.Port),
		cmp.Compare(a.Frontend.Protocol, b.Frontend.Protocol),
		cmp.Compare(a.Frontend.Scope, b.Frontend.Scope),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Port.Namespace, b.Port.Namespace),
		cmp.Compare(a.Port.Name, b.Port.Name),
		cmp.Compare(a.Port.Port, b.Port.Port),
	)
}

func (n Name) compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}
