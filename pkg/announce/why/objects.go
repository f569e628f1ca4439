// SPDX-License-Identifier: Apache-2.0

package why

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// pool tells which pool the address is of, and whether it is in conflict there.
func (c *chain) pool() {
	var others []string
	for _, p := range source.List[*v1alpha1.IPPool](c.Objects.Store, source.KindIPPool) {
		if p.Spec.Use != v1alpha1.UseLoadBalancer {
			continue
		}
		if !plan.AddressPool(p).Contains(c.Addr) {
			others = append(others, describe(p))
			continue
		}
		for _, x := range p.Status.Conflicts {
			if x.Address == c.Addr.String() {
				c.add("pool", agentapi.LinkBroken, "of %s, in conflict: %s uses it too, seen by %s", p.Name, or(x.MAC, "another machine"), or(x.Node, "a node"))
				return
			}
		}
		c.add("pool", agentapi.LinkHolds, "of %s: %d used, %d free", p.Name, p.Status.Used, p.Status.Free)
		return
	}
	state, list := agentapi.LinkBroken, "there are none"
	if a := c.record(); a != nil && a.Spec.State == v1alpha1.AllocationActive {
		state = agentapi.LinkDoubt // it was given while a pool had it
	}
	if len(others) > 0 {
		list = "they have " + strings.Join(others, "; ")
	}
	c.add("pool", state, "no IPPool of use LoadBalancer has it: %s", list)
}

func describe(p *v1alpha1.IPPool) string {
	texts := slices.Clone(p.Spec.CIDRs)
	for _, r := range p.Spec.Ranges {
		texts = append(texts, r.First+"-"+r.Last)
	}
	return strings.Join(texts, ", ") + " (" + p.Name + ")"
}

// record is the address's durable record, or nil.
func (c *chain) record() *v1alpha1.IPAllocation {
	for a := range source.All[*v1alpha1.IPAllocation](c.Objects.Store, source.KindIPAllocation) {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil && addr == c.Addr {
			return a
		}
	}
	return nil
}

// allocation tells what the durable record says.
func (c *chain) allocation() {
	a := c.record()
	if a == nil {
		c.add("allocation", agentapi.LinkDoubt, "never given out: there is no IPAllocation for it")
		return
	}
	owners := make([]string, len(a.Spec.Owners))
	for i, o := range a.Spec.Owners {
		owners[i] = o.Namespace + "/" + o.Name
	}
	list, since := strings.Join(owners, ", "), a.Spec.Since.Format("15:04:05")
	switch a.Spec.State {
	case v1alpha1.AllocationActive:
		c.add("allocation", agentapi.LinkHolds, "given to %s out of %s", list, a.Spec.Pool)
	case v1alpha1.AllocationReserved:
		c.add("allocation", agentapi.LinkBroken, "reserved for %s since %s; the network is being asked whether another machine has it, which takes some seconds", list, since)
	case v1alpha1.AllocationConflicted:
		c.add("allocation", agentapi.LinkBroken, "another machine on the network was found to use it, and is looked for again every minute; no Service is given it before that is gone")
	default:
		c.add("allocation", agentapi.LinkBroken, "free, resting since %s; last of %s", since, or(list, "nobody"))
	}
}

// services tells which Services have the address in their status, or ask for it
// in vain.
func (c *chain) services() {
	had := false
	for _, s := range source.List[*corev1.Service](c.Objects.Store, source.KindService) {
		switch text := s.Namespace + "/" + s.Name; {
		case slices.Contains(ingress(s), c.Addr):
			had = true
			policy := "any node forwards to all endpoints"
			if local(s) {
				policy = "only endpoints of the node that it comes in by (externalTrafficPolicy Local)"
			}
			c.add("service", agentapi.LinkHolds, "%s: %s", text, policy)
		case s.Spec.Type == corev1.ServiceTypeLoadBalancer && slices.Contains(convert.LoadBalancer(s).Requested, c.Addr):
			had = true
			c.add("service", agentapi.LinkBroken, "%s asks for it and hasn't got it: %s", text, pending(s))
		}
	}
	if !had {
		c.add("service", agentapi.LinkBroken, "no Service has %s in its status", c.Addr)
	}
}

func ingress(s *corev1.Service) (addrs []netip.Addr) {
	for _, i := range s.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(i.IP); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

func local(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// pending is what the controller says of why a Service lacks an address.
func pending(s *corev1.Service) string {
	if found := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionAddress); found != nil {
		return or(found.Message, found.Reason)
	}
	return "no controller has seen it yet: is one at work, and is the Service's loadBalancerClass ours?"
}

// Service explains a Service that has no address; addrs are those that it has,
// to be explained one by one.
func Service(in Input, name source.Key) (w agentapi.Why, addrs []netip.Addr, err error) {
	s, ok := source.Get[*corev1.Service](in.Objects.Store, source.KindService, name)
	if !ok {
		return w, nil, agentapi.Errorf(agentapi.CodeUnknown, "there is no Service %s", name)
	}
	if addrs = ingress(s); len(addrs) > 0 {
		return w, addrs, nil
	}
	text := pending(s)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		text = fmt.Sprintf("its type is %s, not LoadBalancer", cmp.Or(s.Spec.Type, corev1.ServiceTypeClusterIP))
	}
	text = fmt.Sprintf("%s has no address: %s", name, text)
	return agentapi.Why{Node: in.Node, Verdict: "service: " + text, Links: []agentapi.WhyLink{{Name: "service", State: agentapi.LinkBroken, Text: text}}}, nil, nil
}

// candidates lists the nodes, the owner and those next in line first.
func (c *chain) candidates() {
	var fit, unfit []string
	why := map[string]string{}
	selects := c.selector()
	for _, n := range source.List[*corev1.Node](c.Objects.Store, source.KindNode) {
		s, known := c.Standings[n.Name]
		_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
		reaches := slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(c.Addr) })
		switch {
		case !known:
			why[n.Name] = "nothing was heard of it yet"
		case !s.Alive || !reaches && s.Told:
			why[n.Name] = or(s.Why, "it has no external NIC on the address's network")
		case selects != nil && !selects(n.Labels):
			why[n.Name] = "the pool's nodeSelector leaves it out"
		case excluded && n.Name == c.held.Holder:
			why[n.Name] = "labelled to be left out of load balancing, but no other node could have it"
		case excluded:
			why[n.Name] = "labelled to be left out of load balancing"
		default:
			fit = append(fit, n.Name)
			continue
		}
		unfit = append(unfit, n.Name)
	}
	for place := 1; len(fit) > 0; place++ {
		next := announce.Owner(c.Addr, fit)
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

// selector is that of the address's pool; nil: it has none.
func (c *chain) selector() func(map[string]string) bool {
	for p := range source.All[*v1alpha1.IPPool](c.Objects.Store, source.KindIPPool) {
		if pool := plan.AddressPool(p); p.Spec.Use == v1alpha1.UseLoadBalancer && pool.Contains(c.Addr) {
			return pool.Selects
		}
	}
	return nil
}

// frontends tells of each port what is behind it.
func (c *chain) frontends() {
	var ports []string
	for _, e := range c.Objects.Entries {
		f := e.Frontend
		if f.IP != c.Addr || f.Scope != service.External {
			continue
		}
		ports = append(ports, fmt.Sprintf("%d/%s (%s/%s)", f.Port, f.Protocol, e.Port.Namespace, e.Port.Name))
		if c.Port != 0 && f.Port != c.Port {
			continue
		}
		c.found = append(c.found, e)
		c.add("frontend", agentapi.LinkHolds, "%s of %s/%s is in force on %s", f.Address, e.Port.Namespace, e.Port.Name, c.Node)
		c.backends(e)
	}
	switch {
	case len(c.found) > 0:
	case c.Port != 0 && len(ports) > 0:
		c.add("frontend", agentapi.LinkBroken, "no Service has port %d on %s; there are %s", c.Port, c.Addr, strings.Join(ports, ", "))
	default:
		c.add("frontend", agentapi.LinkBroken, "no frontend of %s is in force on %s", c.Addr, c.Node)
	}
}

// backends tells of a frontend's backends, by node. Where packets stay on the
// node that they come to, those of the address's owner count.
func (c *chain) backends(e service.Entry) {
	s, _ := source.Get[*corev1.Service](c.Objects.Store, source.KindService, source.Key{Namespace: e.Port.Namespace, Name: e.Port.Name})
	name, stays := e.Port.Namespace+"/"+e.Port.Name, s != nil && local(s)
	all := e.Backends
	if stays {
		for _, o := range c.Objects.Entries {
			if o.Frontend.Address == e.Frontend.Address && o.Frontend.Scope == service.Cluster {
				all = o.Backends
			}
		}
	}
	on := map[string]int{}
	var nodes []string
	for _, b := range all {
		if on[b.Node]++; on[b.Node] == 1 {
			nodes = append(nodes, b.Node)
		}
	}
	slices.Sort(nodes)
	counts := make([]string, len(nodes))
	for i, n := range nodes {
		counts[i] = fmt.Sprintf("%d on %s", on[n], or(n, "no node"))
	}
	list := strings.Join(counts, ", ")
	switch {
	case len(all) == 0 && stays:
		c.add("backends", agentapi.LinkBroken, "no endpoint of %s is ready on any node: packets to %s are dropped (externalTrafficPolicy Local)", name, e.Frontend.Address)
	case len(all) == 0:
		c.add("backends", agentapi.LinkBroken, "no endpoint of %s is ready: connections to %s are refused", name, e.Frontend.Address)
	case stays && c.held.Holder != "" && on[c.held.Holder] == 0:
		c.add("backends", agentapi.LinkBroken, "%s has the address, but no ready endpoint of %s, whose packets stay where they come in (externalTrafficPolicy Local); there are %s", c.held.Holder, name, list)
	default:
		c.add("backends", agentapi.LinkHolds, "%d behind %s: %s", len(all), e.Frontend.Address, list)
	}
}

// policy tells who is let in, and who stays with a backend.
func (c *chain) policy() {
	for _, e := range c.found {
		name := e.Port.Namespace + "/" + e.Port.Name
		if e.Affinity > 0 {
			c.add("policy", agentapi.LinkHolds, "%s: a client stays with its backend for %v", e.Frontend.Address, e.Affinity)
		}
		switch {
		case len(e.SourceRanges) == 0:
		case !c.From.IsValid():
			c.add("policy", agentapi.LinkHolds, "%s: only sources in %s are let in; --from tells whether one is", name, prefixes(e.SourceRanges))
		case !admits(e.SourceRanges, c.From):
			c.add("policy", agentapi.LinkBroken, "%s lets only sources in %s in: packets from %s are dropped (loadBalancerSourceRanges)", name, prefixes(e.SourceRanges), c.From)
		default:
			c.add("policy", agentapi.LinkHolds, "%s lets %s in, by its source ranges", name, c.From)
		}
	}
}

func admits(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func prefixes(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}
