// SPDX-License-Identifier: Apache-2.0

package why

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// pool tells which pool the address is of, and whether it is in conflict there.
func (c *chain) pool() {
	for _, p := range source.List[*v1alpha1.IPPool](c.Objects.Store, source.KindIPPool) {
		if p.Spec.Use != v1alpha1.UseLoadBalancer || !plan.AddressPool(p).Contains(c.addr) {
			continue
		}
		for _, x := range p.Status.Conflicts {
			if x.Address == c.addr.String() {
				c.add("pool", agentapi.LinkBroken, "of %s, in conflict: %s uses it too, seen by %s", p.Name, or(x.MAC, "another machine"), or(x.Node, "a node"))
				return
			}
		}
		c.add("pool", agentapi.LinkHolds, "of %s: %d used, %d free", p.Name, p.Status.Used, p.Status.Free)
		return
	}
	c.add("pool", agentapi.LinkDoubt, "in no IPPool of use LoadBalancer")
}

// allocation tells what the durable record says.
func (c *chain) allocation() {
	for _, a := range source.List[*v1alpha1.IPAllocation](c.Objects.Store, source.KindIPAllocation) {
		if addr, err := netip.ParseAddr(a.Spec.Address); err != nil || addr != c.addr {
			continue
		}
		owners := make([]string, len(a.Spec.Owners))
		for i, o := range a.Spec.Owners {
			owners[i] = o.Namespace + "/" + o.Name
		}
		list := strings.Join(owners, ", ")
		switch a.Spec.State {
		case v1alpha1.AllocationActive:
			c.add("allocation", agentapi.LinkHolds, "given to %s out of %s", list, a.Spec.Pool)
		case v1alpha1.AllocationReserved:
			c.add("allocation", agentapi.LinkBroken, "reserved for %s; the network is still being asked whether another machine has it", list)
		case v1alpha1.AllocationConflicted:
			c.add("allocation", agentapi.LinkBroken, "another machine on the network was found to use it")
		default:
			c.add("allocation", agentapi.LinkBroken, "free, resting since %s; last of %s", a.Spec.Since.Format("15:04:05"), or(list, "nobody"))
		}
		return
	}
	c.add("allocation", agentapi.LinkDoubt, "never given out: there is no IPAllocation for it")
}

// services tells which Services have the address in their status.
func (c *chain) services() {
	for _, s := range source.List[*corev1.Service](c.Objects.Store, source.KindService) {
		has := slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			addr, err := netip.ParseAddr(i.IP)
			return err == nil && addr == c.addr
		})
		if !has {
			continue
		}
		policy := "any node forwards to all endpoints"
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			policy = "only endpoints of the node that it comes in by (externalTrafficPolicy Local)"
		}
		text := fmt.Sprintf("%s/%s: %s", s.Namespace, s.Name, policy)
		if len(s.Spec.LoadBalancerSourceRanges) > 0 {
			text += "; admitted sources: " + strings.Join(s.Spec.LoadBalancerSourceRanges, ", ")
		}
		c.add("service", agentapi.LinkHolds, "%s", text)
	}
	if !slices.ContainsFunc(c.out.Links, func(l agentapi.WhyLink) bool { return l.Name == "service" }) {
		c.add("service", agentapi.LinkBroken, "no Service has %s in its status", c.addr)
	}
}

// candidates lists the nodes, the owner and those next in line first.
func (c *chain) candidates() {
	var fit, unfit []string
	why := map[string]string{}
	for _, n := range source.List[*corev1.Node](c.Objects.Store, source.KindNode) {
		s, known := c.Standings[n.Name]
		_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
		reaches := slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(c.addr) })
		switch {
		case !known:
			why[n.Name] = "nothing was heard of it yet"
		case !s.Alive || !reaches && s.Told:
			why[n.Name] = or(s.Why, "it has no external NIC on the address's network")
		case excluded:
			why[n.Name] = "labelled to be left out of load balancing"
		default:
			fit = append(fit, n.Name)
			continue
		}
		unfit = append(unfit, n.Name)
	}
	for place := 1; len(fit) > 0; place++ {
		next := announce.Owner(c.addr, fit)
		reason := fmt.Sprintf("place %d by hash of the address", place)
		if s := c.Standings[next]; !s.Steady {
			reason += "; not well for long enough to be handed addresses"
		}
		c.out.Candidates = append(c.out.Candidates, agentapi.Candidate{Node: next, Owner: next == c.held.Holder, Eligible: true, Reason: reason})
		fit = slices.DeleteFunc(fit, func(n string) bool { return n == next })
	}
	for _, n := range unfit {
		c.out.Candidates = append(c.out.Candidates, agentapi.Candidate{Node: n, Owner: n == c.held.Holder, Reason: why[n]})
	}
}

// frontends tells of each port what is behind it.
func (c *chain) frontends() {
	found := false
	for _, e := range c.Objects.Entries {
		f := e.Frontend
		if f.IP != c.addr || f.Scope != service.External || c.port != 0 && f.Port != c.port {
			continue
		}
		found = true
		c.add("frontend", agentapi.LinkHolds, "%s of %s/%s is in force on %s", f.Address, e.Port.Namespace, e.Port.Name, c.Node)
		c.backends(e)
		if e.Affinity > 0 {
			c.add("policy", agentapi.LinkHolds, "%s: a client stays with its backend for %v", f.Address, e.Affinity)
		}
		if len(e.SourceRanges) > 0 {
			c.add("policy", agentapi.LinkHolds, "%s: sources outside %v are dropped", f.Address, e.SourceRanges)
		}
	}
	switch {
	case found:
	case c.port != 0:
		c.add("frontend", agentapi.LinkBroken, "no Service has port %d on %s", c.port, c.addr)
	default:
		c.add("frontend", agentapi.LinkBroken, "no frontend of %s is in force on %s", c.addr, c.Node)
	}
}

// backends tells of a frontend's backends, by node.
func (c *chain) backends(e service.Entry) {
	if len(e.Backends) == 0 && e.Empty == service.Drop {
		c.add("backends", agentapi.LinkBroken, "%s has no ready backend on this node, and may use no other's: packets that come here are dropped", e.Frontend.Address)
		return
	}
	if len(e.Backends) == 0 {
		c.add("backends", agentapi.LinkBroken, "%s has no ready backend: connections are refused", e.Frontend.Address)
		return
	}
	count := map[string]int{}
	var nodes []string
	for _, b := range e.Backends {
		if count[b.Node]++; count[b.Node] == 1 {
			nodes = append(nodes, b.Node)
		}
	}
	slices.Sort(nodes)
	for i, n := range nodes {
		nodes[i] = fmt.Sprintf("%d on %s", count[n], or(n, "no node"))
	}
	c.add("backends", agentapi.LinkHolds, "%d behind %s: %s", len(e.Backends), e.Frontend.Address, strings.Join(nodes, ", "))
}

// verification is what a node saw over the wire.
type verification struct{ by, owner, problem string }

// verifications are this node's and, by their reports, the others'.
func (c *chain) verifications() (list []verification) {
	if r, ok := c.Verified[c.addr]; ok && r.Owner == c.held.Holder {
		list = append(list, verification{r.By, r.Owner, r.Problem})
	}
	for _, s := range source.List[*v1alpha1.NodeNetworkState](c.Objects.Store, source.KindNodeNetworkState) {
		for _, v := range s.Status.Verified {
			if addr, err := netip.ParseAddr(v.Address); err != nil || addr != c.addr || v.Node != c.held.Holder || s.Name == c.Node {
				continue
			}
			problem := v.Message
			if v.Reachable {
				problem = ""
			}
			list = append(list, verification{s.Name, v.Node, problem})
		}
	}
	return list
}

// machine names who has a MAC address.
func (c *chain) machine(mac [6]byte) string { return "the machine with " + hardware(mac) }

func hardware(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
