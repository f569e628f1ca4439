// SPDX-License-Identifier: Apache-2.0

// Package why explains a LoadBalancer address: it walks the chain from the pool
// to the pods and back, and tells of each link whether it holds. It is pure: it
// looks at what others know, and asks nobody.
package why

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/service"
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
	// Probes are what nodes saw that were asked for the occasion.
	Probes []verify.Result
	// ReplyPath is the configured one: ingress or direct.
	ReplyPath string
	// Way is this node's way to the client of the question.
	Way Way
}

// Question is what is asked for.
type Question struct {
	Addr netip.Addr
	Port uint16     // 0: all
	From netip.Addr // a client; may be zero
}

// Way is how this node would send a packet to a machine.
type Way struct {
	NIC     string     // "": it knows no way
	Gateway netip.Addr // zero: the machine is on the link
	// Silent: the gateway, or the machine on the link, was asked for and didn't
	// answer.
	Silent bool
}

// chain is the explanation in the making.
type chain struct {
	Input
	Question
	held  holder.Address
	known bool            // the holder knows the address
	found []service.Entry // the frontends asked about
	out   agentapi.Why
}

// Explain explains an address. What is a cause comes before what only shows it:
// the first link that is broken is what has to be repaired.
func Explain(in Input, q Question) agentapi.Why {
	c := &chain{Input: in, Question: q, out: agentapi.Why{Addr: q.Addr, Port: q.Port, Node: in.Node}}
	if i := slices.IndexFunc(in.Addresses, func(a holder.Address) bool { return a.Addr == q.Addr }); i >= 0 {
		c.held, c.known = in.Addresses[i], true
	}
	c.pool()
	c.allocation()
	c.services()
	c.candidates()
	c.owner()
	c.nic()
	c.answers()
	c.frontends()
	c.policy()
	c.reply()
	c.seen()
	c.probes()
	c.conclude()
	return c.out
}

// conclude makes the verdict: the first link that is broken, else where the
// address is.
func (c *chain) conclude() {
	c.out.OK = true
	for _, l := range c.out.Links {
		if l.State == agentapi.LinkBroken {
			c.out.OK, c.out.Verdict = false, l.Name+": "+l.Text
			return
		}
	}
	var said []string
	for _, l := range c.out.Links {
		if l.Name == "owner" || l.Name == "nic" || l.Name == "backends" {
			said = append(said, l.Text)
		}
	}
	c.out.Verdict = strings.Join(said, "; ")
}

func (c *chain) add(name, state, format string, args ...any) {
	c.out.Links = append(c.out.Links, agentapi.WhyLink{Name: name, State: state, Text: fmt.Sprintf(format, args...)})
}

// owner tells who has the address.
func (c *chain) owner() {
	h := c.held
	switch {
	case !c.known:
		c.add("owner", agentapi.LinkBroken, "no node answers for %s: no Service has it, or it is in none of the pools", c.Addr)
	case h.Stranger != [6]byte{}:
		c.add("owner", agentapi.LinkBroken, "%s uses the address, and is no node of the cluster; no node takes it before that stops", machine(h.Stranger))
	case h.Phase == holder.Probing:
		c.add("owner", agentapi.LinkDoubt, "%s is about to take it over, and asks for an old owner first", c.Node)
	case h.Holder == "":
		c.add("owner", agentapi.LinkBroken, "no node has it; %s", c.nobody())
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

// nobody says why no node has the address: what is wrong with each of them, or
// what the one that could have it waits for.
func (c *chain) nobody() string {
	var faults []string
	for _, n := range c.out.Candidates {
		if n.Eligible {
			return or(c.held.Why, "it is about to be taken")
		}
		faults = append(faults, n.Node+": "+n.Reason)
	}
	if len(faults) == 0 {
		return "there are no nodes"
	}
	return "none can: " + strings.Join(faults, "; ")
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
		if n.External && slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Contains(c.Addr) }) {
			c.nicState(n.Name, n.Carrier, n.MAC)
			return
		}
	}
	c.add("nic", agentapi.LinkDoubt, "%s hasn't told of a NIC on the network of %s", c.held.Holder, c.Addr)
}

func (c *chain) nicState(name string, carrier bool, mac [6]byte) {
	if !carrier {
		c.add("nic", agentapi.LinkBroken, "%s of %s has no carrier: look at its cable and its switch port", name, c.held.Holder)
		return
	}
	c.add("nic", agentapi.LinkHolds, "by %s, %s, with carrier", name, hardware(mac))
}

// answers tells whether the owner's kernel answers for it.
func (c *chain) answers() {
	left, here := c.Announced[c.Addr]
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

// machine names who has a MAC address.
func machine(mac [6]byte) string { return "the machine with " + hardware(mac) }

func hardware(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
