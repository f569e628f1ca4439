// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// HostPort is a port of the node that leads to one of a pod.
type HostPort struct {
	HostIP        netip.Addr // one address of the node; zero or unspecified: all
	Port          uint16
	ContainerPort uint16
	Protocol      service.Protocol
	Namespace     string // the pod's
	Pod           string
	Addrs         []netip.Addr // the pod's
}

// PodPorts collects the pods' host ports.
func PodPorts(pods []agentapi.Pod) []HostPort {
	protocols := map[string]service.Protocol{"tcp": service.TCP, "udp": service.UDP, "sctp": service.SCTP}
	var ports []HostPort
	for _, p := range pods {
		for _, m := range p.Ports {
			if protocol, ok := protocols[m.Protocol]; ok {
				ports = append(ports, HostPort{
					HostIP: m.HostIP, Port: m.HostPort, ContainerPort: m.ContainerPort, Protocol: protocol,
					Namespace: p.PodNamespace, Pod: p.PodName, Addrs: p.Addrs,
				})
			}
		}
	}
	return ports
}

// HostPorts are the frontends of the pods' ports on this node, which has these
// addresses. A port on all addresses is open on the NICs that NodePorts are, one
// on a certain address on the NIC that has it. Loopback addresses are for the
// node's own processes alone: the datapath knows them by their namespace. A port
// on an address that isn't the node's is not opened: whoever may make pods must
// not be able to take what is on its way to others.
func HostPorts(ports []HostPort, node string, addrs []netip.Addr, roles service.NICRoles) []service.Entry {
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	var entries []service.Entry
	for _, p := range ports {
		open, on := slices.Concat(addrs, loopback), cmp.Or(roles, service.InternalNIC)
		if ip := p.HostIP.Unmap(); ip.IsValid() && !ip.IsUnspecified() {
			open, on = []netip.Addr{ip}, service.InternalNIC|service.ExternalNIC
			if !ip.IsLoopback() && !slices.Contains(addrs, ip) {
				continue
			}
		}
		for _, ip := range open {
			entries = p.append(entries, ip, node, on)
		}
	}
	return entries
}

// append adds the frontends of one address of the node, if the pod has one of
// that family.
func (p HostPort) append(entries []service.Entry, ip netip.Addr, node string, roles service.NICRoles) []service.Entry {
	i := slices.IndexFunc(p.Addrs, func(a netip.Addr) bool { return a.Is4() == ip.Is4() })
	if i < 0 {
		return entries
	}
	e := service.Entry{
		Frontend: service.Frontend{Address: service.Address{IP: ip, Port: p.Port, Protocol: p.Protocol}, Scope: service.Cluster},
		Port:     service.PortName{Namespace: p.Namespace, Name: p.Pod, Port: "hostPort"}, Kind: service.NodePort,
		Backends: []service.Backend{{Addr: netip.AddrPortFrom(p.Addrs[i], p.ContainerPort), Node: node, Local: true}},
		SocketLB: true, NodePortRoles: roles,
	}
	entries = append(entries, e)
	if !ip.IsLoopback() {
		e.Frontend.Scope, e.SocketLB, e.Consistent = service.External, false, true
		entries = append(entries, e)
	}
	return entries
}

// Join adds entries to a sorted list. Where both claim a frontend, the list's
// own has it.
func Join(list, more []service.Entry) []service.Entry {
	if len(more) == 0 {
		return list
	}
	joined := slices.Concat(list, more)
	slices.SortStableFunc(joined, func(a, b service.Entry) int { return compareFrontends(a.Frontend, b.Frontend) })
	return slices.CompactFunc(joined, func(a, b service.Entry) bool { return a.Frontend == b.Frontend })
}

func compareFrontends(a, b service.Frontend) int {
	return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
}
