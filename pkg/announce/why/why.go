// SPDX-License-Identifier: Apache-2.0

// Package why explains a LoadBalancer address: it walks the chain from the pool
// to the pods and back, and tells of each link whether it holds. It is pure: it
// looks at what others know, and asks nobody.
package why

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
)

// Input is what an address is explained from.
type Input struct {
	Node    string // this one
	Objects parts.Objects
	// Addresses and Standings are the holder's, View the heartbeat's.
	Addresses []holder.Address
	Standings map[string]holder.Standing
	View      heartbeat.View
	// Announced are the addresses that this node's datapath answers for, with the
	// time left; zero: for ever.
	Announced map[netip.Addr]time.Duration
	// Verified is what this node saw of others' addresses over the wire.
	Verified map[netip.Addr]verify.Result
	// ReplyPath is the configured one: ingress or direct.
	ReplyPath string
}

// chain is the explanation in the making.
type chain struct {
	Input
	addr  netip.Addr
	port  uint16
	held  holder.Address
	known bool // the holder knows the address
	out   agentapi.Why
}

// Explain explains an address, and one port of it unless that is 0.
func Explain(in Input, addr netip.Addr, port uint16) agentapi.Why {
	c := &chain{Input: in, addr: addr, port: port, out: agentapi.Why{Addr: addr, Port: port, Node: in.Node}}
	if i := slices.IndexFunc(in.Addresses, func(a holder.Address) bool { return a.Addr == addr }); i >= 0 {
		c.held, c.known = in.Addresses[i], true
	}
	c.pool()
	c.allocation()
	c.services()
	c.owner()
	c.candidates()
	c.nic()
	c.answers()
	c.seen()
	c.frontends()
	c.reply()
	Conclude(&c.out)
	return c.out
}

// Add adds what a node saw over the wire, asked for the occasion.
func Add(w *agentapi.Why, results ...verify.Result) {
	for _, r := range results {
		probe := agentapi.WireProbe{By: r.By, Owner: r.Owner, AnsweredBy: r.AnsweredBy, Problem: r.Problem}
		state, text := agentapi.LinkHolds, fmt.Sprintf("asked by %s just now: answered by %s", r.By, strings.Join(r.AnsweredBy, " and "))
		for _, p := range r.Ports {
			probe.Ports = append(probe.Ports, agentapi.PortProbe{Port: p.Port, Answer: string(p.Answer), Tries: p.Tries})
			text += fmt.Sprintf("; port %d %s", p.Port, p.Answer)
		}
		if r.Problem != "" {
			state, text = agentapi.LinkBroken, r.Problem
		}
		w.Probes = append(w.Probes, probe)
		w.Links = append(w.Links, agentapi.WhyLink{Name: "probe", State: state, Text: text})
	}
	Conclude(w)
}

// Conclude makes the verdict: the first link that is broken, else where the address is.
func Conclude(w *agentapi.Why) {
	w.OK = true
	for _, l := range w.Links {
		if l.State == agentapi.LinkBroken {
			w.OK, w.Verdict = false, l.Name+": "+l.Text
			return
		}
	}
	var said []string
	for _, l := range w.Links {
		if l.Name == "owner" || l.Name == "nic" || l.Name == "backends" {
			said = append(said, l.Text)
		}
	}
	w.Verdict = strings.Join(said, "; ")
}

func (c *chain) add(name, state, format string, args ...any) {
	c.out.Links = append(c.out.Links, agentapi.WhyLink{Name: name, State: state, Text: fmt.Sprintf(format, args...)})
}

// owner tells who has the address.
func (c *chain) owner() {
	h := c.held
	switch {
	case !c.known:
		c.add("owner", agentapi.LinkBroken, "%s is no address that this node knows to be answered for: no Service has it, or it is in none of the pools", c.addr)
	case h.Stranger != [6]byte{}:
		c.add("owner", agentapi.LinkBroken, "%s uses the address, which is no node of the cluster", c.machine(h.Stranger))
	case h.Phase == holder.Probing:
		c.add("owner", agentapi.LinkDoubt, "%s is about to take it over, and asks for an old owner first", c.Node)
	case h.Holder == "":
		c.add("owner", agentapi.LinkBroken, "no node has it; %s", or(h.Why, "nobody can be chosen"))
	case h.Offered != "":
		c.add("owner", agentapi.LinkHolds, "%s has it, epoch %d, and hands it to %s", h.Holder, h.Epoch, h.Offered)
	default:
		text := fmt.Sprintf("%s has it, epoch %d", h.Holder, h.Epoch)
		if h.Holder == c.Node && h.Why != "" {
			text += ": " + h.Why
		}
		c.add("owner", agentapi.LinkHolds, "%s", text)
	}
}

// nic tells where the owner answers.
func (c *chain) nic() {
	if c.held.Holder == "" {
		return
	}
	if c.held.Holder == c.Node {
		for _, n := range c.Objects.NICs {
			if n.Index == c.held.Link {
				c.nicState(n.Name, n.Carrier, n.MAC)
				return
			}
		}
		c.add("nic", agentapi.LinkBroken, "%s has no NIC to answer on", c.Node)
		return
	}
	peer := c.View.Peers[c.held.Holder]
	for _, n := range peer.State.NICs {
		if n.External && slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Contains(c.addr) }) {
			c.nicState(n.Name, n.Carrier, n.MAC)
			return
		}
	}
	c.add("nic", agentapi.LinkDoubt, "%s hasn't told of a NIC on the network of %s", c.held.Holder, c.addr)
}

func (c *chain) nicState(name string, carrier bool, mac [6]byte) {
	if !carrier {
		c.add("nic", agentapi.LinkBroken, "%s of %s has no carrier", name, c.held.Holder)
		return
	}
	c.add("nic", agentapi.LinkHolds, "by %s, %s, with carrier", name, hardware(mac))
}

// answers tells whether the owner's kernel answers for it.
func (c *chain) answers() {
	left, here := c.Announced[c.addr]
	switch {
	case c.held.Holder == c.Node && !here:
		c.add("answers", agentapi.LinkBroken, "the datapath of %s doesn't answer for it: another node claimed it, or the entry expired", c.Node)
	case c.held.Holder == c.Node && left == 0:
		c.add("answers", agentapi.LinkHolds, "ARP and neighbour solicitations are answered in the kernel for as long as no other node can take it over")
	case c.held.Holder == c.Node:
		c.add("answers", agentapi.LinkHolds, "ARP and neighbour solicitations are answered in the kernel; to be renewed within %v", left.Round(time.Second))
	case here:
		c.add("answers", agentapi.LinkBroken, "the datapath of %s answers for it, though %s has it", c.Node, or(c.held.Holder, "nobody"))
	case c.held.Holder != "" && !c.View.Peers[c.held.Holder].Agent:
		c.add("answers", agentapi.LinkDoubt, "the agent of %s isn't heard; its kernel goes on answering until another node takes over", c.held.Holder)
	}
}

// seen tells what a node saw of it over the wire.
func (c *chain) seen() {
	results := c.verifications()
	if len(results) == 0 && c.held.Holder != "" {
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

// reply tells which way answers take.
func (c *chain) reply() {
	if c.ReplyPath == "direct" {
		c.add("reply", agentapi.LinkHolds, "straight from the backend's node to the client")
		return
	}
	c.add("reply", agentapi.LinkHolds, "back through %s, by the NIC and to the MAC address that the request came from", or(c.held.Holder, "the node it came in by"))
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
