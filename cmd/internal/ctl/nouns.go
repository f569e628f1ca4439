// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func (c *cli) pods(program string) *cobra.Command {
	return noun[agentapi.Pod]{
		use: "pods", what: "POD", aliases: []string{"pod"},
		short:    "List the pods of this node that the agent serves",
		long:     "List the pods of this node that the agent serves: addresses, host interface, and\nwhether their programs are in force. POD is a name, namespace/name, or address.",
		examples: []string{"pods", "pods default/web-1 -o wide"},
		fetch:    agentapi.Client.Pods,
		columns: []column[agentapi.Pod]{
			{"NAMESPACE", false, func(p agentapi.Pod) string { return p.PodNamespace }},
			{"NAME", false, func(p agentapi.Pod) string { return p.PodName }},
			{"ADDRESSES", false, func(p agentapi.Pod) string { return list(p.Addrs) }},
			{"INTERFACE", false, func(p agentapi.Pod) string { return p.HostIfName }},
			{"IN-FORCE", false, inForce},
			{"MAC", true, func(p agentapi.Pod) string { return p.MAC }},
			{"CONTAINER", true, container},
			{"NODE", true, func(p agentapi.Pod) string { return p.Node }},
			{"PROBLEM", false, func(p agentapi.Pod) string { return p.Problem }},
		},
		named: func(p agentapi.Pod, name string) bool {
			return isName(name, p.PodNamespace, p.PodName) || has(p.Addrs, name)
		},
	}.command(c, program)
}

// inForce tells whether a pod's programs are in force, where it is known.
func inForce(p agentapi.Pod) string {
	if p.Node != "" {
		return ""
	}
	return yes(p.Attached)
}

func container(p agentapi.Pod) string {
	if p.ContainerID == "" {
		return ""
	}
	return p.ContainerID + "/" + p.IfName
}

func (c *cli) services(program string) *cobra.Command {
	return noun[agentapi.Service]{
		use: "services", what: "SERVICE", aliases: []string{"service", "svc"},
		short:    "List the Services' frontends that are in force",
		long:     "List the Services' frontends that are in force on this node, and the backends\nbehind each. SERVICE is a name, namespace/name, or a frontend's address.",
		examples: []string{"services", "services default/web -o yaml"},
		fetch:    agentapi.Client.Services,
		columns: []column[agentapi.Service]{
			{"NAMESPACE", false, func(s agentapi.Service) string { return s.Namespace }},
			{"NAME", false, func(s agentapi.Service) string { return s.Name }},
			{"PORT", true, func(s agentapi.Service) string { return s.Port }},
			{"KIND", false, func(s agentapi.Service) string { return s.Kind }},
			{"FRONTEND", false, func(s agentapi.Service) string { return s.Frontend.String() + "/" + s.Protocol }},
			{"SCOPE", false, func(s agentapi.Service) string { return s.Scope }},
			{"BACKENDS", false, backendCount},
			{"AFFINITY", true, func(s agentapi.Service) string { return duration(s.Affinity) }},
			{"SOURCES", true, func(s agentapi.Service) string { return list(s.SourceRanges) }},
			{"TO", true, backendList},
		},
		named: func(s agentapi.Service, name string) bool {
			return isName(name, s.Namespace, s.Name) || name == s.Frontend.String() || name == s.Frontend.Addr().String()
		},
	}.command(c, program)
}

// backendCount returns the number of backends, or what happens without any.
func backendCount(s agentapi.Service) string {
	if len(s.Backends) == 0 {
		return "none: " + s.Empty
	}
	return strconv.Itoa(len(s.Backends))
}

func backendList(s agentapi.Service) string {
	texts := make([]string, len(s.Backends))
	for i, b := range s.Backends {
		texts[i] = b.Addr.String() + "@" + or(b.Node, "?")
	}
	return strings.Join(texts, ",")
}

func (c *cli) addresses(program string) *cobra.Command {
	cmd := noun[agentapi.Address]{
		use: "addresses", what: "ADDRESS", aliases: []string{"address", "addr"},
		short:    "List the LoadBalancer addresses and who announces them",
		long:     "List the LoadBalancer addresses: whose they are, which node announces each and\nwhy. ADDRESS is an address, or a Service's name or namespace/name.",
		examples: []string{"addresses", "addresses 192.0.2.10 -o wide"},
		fetch:    agentapi.Client.Addresses,
		columns: []column[agentapi.Address]{
			{"ADDRESS", false, func(a agentapi.Address) string { return a.Addr.String() }},
			{"POOL", false, func(a agentapi.Address) string { return a.Pool }},
			{"SERVICES", false, func(a agentapi.Address) string { return strings.Join(a.Services, ",") }},
			{"ANNOUNCED-BY", false, func(a agentapi.Address) string { return a.Owner }},
			{"HERE", false, func(a agentapi.Address) string { return yes(a.Announced) }},
			{"NIC", false, func(a agentapi.Address) string { return a.NIC }},
			{"EXPIRES", true, expiry},
			{"REASON", true, func(a agentapi.Address) string { return a.Reason }},
		},
		named: func(a agentapi.Address, name string) bool {
			return name == a.Addr.String() || slices.ContainsFunc(a.Services, func(s string) bool {
				namespace, service, _ := strings.Cut(s, "/")
				return isName(name, namespace, service)
			})
		},
	}.command(c, program)
	cmd.AddCommand(c.why(program))
	return cmd
}

func expiry(a agentapi.Address) string {
	if !a.Announced {
		return ""
	}
	return or(duration(a.Expires), "never")
}

func (c *cli) leases(program string) *cobra.Command {
	cmd := noun[agentapi.Lease]{
		use: "leases", what: "LEASE", aliases: []string{"lease"},
		short:    "List the address leases of this node",
		long:     "List the address leases of this node, resting ones included. LEASE is an\naddress, a pod's name or namespace/name, or a container id.",
		examples: []string{"leases", "leases 10.244.0.7 -o yaml"},
		fetch:    agentapi.Client.Leases,
		columns: []column[agentapi.Lease]{
			{"ADDRESSES", false, func(l agentapi.Lease) string { return list(l.Addrs) }},
			{"STATE", false, func(l agentapi.Lease) string { return l.State }},
			{"NAMESPACE", false, func(l agentapi.Lease) string { return l.PodNamespace }},
			{"POD", false, func(l agentapi.Lease) string { return l.PodName }},
			{"POOL", false, func(l agentapi.Lease) string { return l.Pool }},
			{"AGE", false, func(l agentapi.Lease) string { return c.age(l.Created) }},
			{"INTERFACE", true, func(l agentapi.Lease) string { return l.HostIfName }},
			{"CONTAINER", true, func(l agentapi.Lease) string { return l.ContainerID + "/" + l.IfName }},
			{"GENERATION", true, func(l agentapi.Lease) string { return strconv.FormatUint(l.Generation, 10) }},
		},
		named: func(l agentapi.Lease, name string) bool {
			return isName(name, l.PodNamespace, l.PodName) || has(l.Addrs, name) || name == l.ContainerID
		},
	}.command(c, program)
	cmd.AddCommand(c.release(program, "leases"))
	return cmd
}

func (c *cli) nics(program string) *cobra.Command {
	return noun[agentapi.NIC]{
		use: "nics", what: "NIC", aliases: []string{"nic"},
		short:    "List the NICs of this node and their roles",
		long:     "List the NICs of this node with their roles, why each has the role it has,\nwhich of its addresses are dynamic, and the programs on it. NIC is a name\nor an address.",
		examples: []string{"nics", "nics eth1 -o wide"},
		fetch:    agentapi.Client.NICs,
		columns: []column[agentapi.NIC]{
			{"NAME", false, func(n agentapi.NIC) string { return n.Name }},
			{"ROLE", false, func(n agentapi.NIC) string { return n.Role }},
			{"CARRIER", false, func(n agentapi.NIC) string { return yes(n.Carrier) }},
			{"ADDRESSES", false, func(n agentapi.NIC) string { return list(n.Addrs) }},
			{"DYNAMIC", true, func(n agentapi.NIC) string { return strings.Join(n.Dynamic, ",") }},
			{"MTU", false, func(n agentapi.NIC) string { return strconv.Itoa(n.MTU) }},
			{"MAC", true, func(n agentapi.NIC) string { return n.MAC }},
			{"INDEX", true, func(n agentapi.NIC) string { return strconv.Itoa(n.Index) }},
			{"REASON", false, func(n agentapi.NIC) string { return n.Reason }},
			{"PROGRAMS", true, func(n agentapi.NIC) string { return strings.Join(n.Programs, ",") }},
			{"PROBLEM", false, func(n agentapi.NIC) string { return n.Problem }},
		},
		named: func(n agentapi.NIC, name string) bool {
			return name == n.Name || slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return name == p.Addr().String() })
		},
	}.command(c, program)
}

func (c *cli) drops(program string) *cobra.Command {
	return noun[agentapi.Drop]{
		use: "drops", what: "REASON", aliases: []string{"drop"},
		short:    "List why and how many packets were dropped",
		long:     "List the packets that this node dropped, by reason, the most frequent first.\nThey are counted since the maps were made: an agent's restart doesn't reset them.",
		examples: []string{"drops", "drops --watch"},
		fetch:    tools.Drops,
		columns: []column[agentapi.Drop]{
			{"REASON", false, func(d agentapi.Drop) string { return d.Reason }},
			{"PACKETS", false, func(d agentapi.Drop) string { return strconv.FormatUint(d.Packets, 10) }},
			{"BYTES", false, func(d agentapi.Drop) string { return strconv.FormatUint(d.Bytes, 10) }},
		},
		named: func(d agentapi.Drop, name string) bool { return strings.EqualFold(d.Reason, name) },
	}.command(c, program)
}

// isName tells whether text names an object: by its name, or namespace/name.
func isName(text, namespace, name string) bool {
	return name != "" && (text == name || text == namespace+"/"+name)
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(time.Second).String()
}

// age returns the time since t in its largest unit.
func (c *cli) age(t time.Time) string { return output.Age(c.now(), t) }

func has(addrs []netip.Addr, text string) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && slices.Contains(addrs, addr)
}
