// SPDX-License-Identifier: Apache-2.0

package why

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// seen tells what nodes saw of it over the wire, by themselves.
func (c *chain) seen() {
	results := c.verifications()
	if len(results) == 0 && len(c.Probes) == 0 && c.held.Holder != "" {
		c.add("seen", agentapi.LinkDoubt, "no other node has asked for it over the wire yet; --probe has one ask now")
	}
	for _, r := range results {
		if r.problem != "" {
			c.add("seen", agentapi.LinkBroken, "asked for over the wire by %s: %s", r.by, r.problem)
			continue
		}
		c.add("seen", agentapi.LinkHolds, "asked for over the wire by %s, it was answered by %s", r.by, r.owner)
	}
}

// verification is what a node saw over the wire.
type verification struct{ by, owner, problem string }

// verifications are this node's and, by their reports, the others'.
func (c *chain) verifications() (list []verification) {
	if r, ok := c.Verified[c.Addr]; ok && r.Owner == c.held.Holder {
		list = append(list, verification{r.By, r.Owner, r.Problem})
	}
	for _, s := range source.List[*v1alpha1.NodeNetworkState](c.Objects.Store, source.KindNodeNetworkState) {
		for _, v := range s.Status.Verified {
			if addr, err := netip.ParseAddr(v.Address); err != nil || addr != c.Addr || v.Node != c.held.Holder || s.Name == c.Node {
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

// probes tells what nodes saw of it over the wire, asked for the occasion.
func (c *chain) probes() {
	for _, r := range c.Probes {
		probe := agentapi.WireProbe{By: r.By, Owner: r.Owner, AnsweredBy: r.AnsweredBy, Problem: r.Problem}
		state, text := agentapi.LinkHolds, fmt.Sprintf("asked by %s just now: answered by %s", r.By, or(strings.Join(r.AnsweredBy, " and "), "nobody"))
		for _, p := range r.Ports {
			probe.Ports = append(probe.Ports, agentapi.PortProbe{Port: p.Port, Answer: string(p.Answer), Tries: p.Tries})
			text += fmt.Sprintf("; port %d %s%s", p.Port, p.Answer, c.excuse(r.By, p))
			if p.Answer == verify.Silent {
				state = agentapi.LinkDoubt
			}
		}
		if r.Problem != "" {
			state, text = agentapi.LinkBroken, r.Problem+strangers(r.AnsweredBy)
		}
		c.out.Probes = append(c.out.Probes, probe)
		c.add("probe", state, "%s", text)
	}
}

// excuse says why a node that asks a port may get no answer though all is well.
func (c *chain) excuse(by string, p verify.Port) string {
	if p.Answer != verify.Silent {
		return ""
	}
	for _, e := range c.found {
		if e.Frontend.Port != p.Port {
			continue
		}
		if len(e.SourceRanges) > 0 && !slices.ContainsFunc(c.addrsOf(by), func(a netip.Addr) bool { return admits(e.SourceRanges, a) }) {
			return fmt.Sprintf(", as %s is no source that %s admits", by, e.Port.Namespace+"/"+e.Port.Name)
		}
	}
	return ", which it may be where the backends are on " + by + " itself"
}

// addrsOf returns a node's addresses on the network of the address.
func (c *chain) addrsOf(node string) (list []netip.Addr) {
	add := func(p netip.Prefix) {
		if p.Contains(c.Addr) {
			list = append(list, p.Addr())
		}
	}
	if node == c.Node {
		for _, n := range c.Objects.NICs {
			if n.Role&nic.External != 0 {
				for _, p := range n.Addrs {
					add(p)
				}
			}
		}
	}
	for _, n := range c.View.Peers[node].State.NICs {
		for _, p := range n.Addrs {
			add(p)
		}
	}
	return list
}

// strangers says which of those that answered are no nodes: they are shown by
// their MAC addresses.
func strangers(names []string) string {
	var macs []string
	for _, name := range names {
		if _, err := net.ParseMAC(name); err == nil {
			macs = append(macs, name)
		}
	}
	if len(macs) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s is no node of the cluster: find that machine and take the address from it)", strings.Join(macs, ", "))
}

// reply tells which way answers take.
func (c *chain) reply() {
	direct, host := c.ReplyPath == "direct", c.ownStack()
	switch {
	case !direct && !host:
		c.add("reply", agentapi.LinkHolds, "back through %s, by the NIC and to the MAC address that the request came from, whatever the routes say", or(c.held.Holder, "the node it came in by"))
		return
	case !c.From.IsValid() && direct:
		c.add("reply", agentapi.LinkHolds, "straight from the backend's node to the client, by that node's routes; --from tells of this node's")
		return
	case !c.From.IsValid():
		c.add("reply", agentapi.LinkHolds, "a backend is in the network of %s itself, which answers by its routes; --from tells of them", c.Node)
		return
	}
	switch w := c.Way; {
	case w.NIC == "":
		c.add("reply", agentapi.LinkBroken, "%s has no route to %s: what its backends answer is lost", c.Node, c.From)
	case w.Silent && w.Gateway.IsValid():
		c.add("reply", agentapi.LinkBroken, "the route of %s to %s is through %s by %s, and nobody there answers: the gateway is wrong or down", c.Node, c.From, w.Gateway, w.NIC)
	case w.Silent:
		c.add("reply", agentapi.LinkBroken, "to %s, %s is on the link of %s, and doesn't answer there", c.Node, c.From, w.NIC)
	case w.Gateway.IsValid():
		c.add("reply", agentapi.LinkHolds, "from backends on %s by its route: through %s by %s", c.Node, w.Gateway, w.NIC)
	default:
		c.add("reply", agentapi.LinkHolds, "from backends on %s by its route: on the link of %s", c.Node, w.NIC)
	}
}

// ownStack tells whether a backend is this node itself: then its own routes
// decide where answers go.
func (c *chain) ownStack() bool {
	for _, e := range c.found {
		for _, b := range e.Backends {
			for _, n := range c.Objects.NICs {
				if slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr() == b.Addr.Addr() }) {
					return true
				}
			}
		}
	}
	return false
}
