// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
)

// The operations on addresses and on nodes.
const (
	OpAddressWhy Op = "addresses.why" // WhyRequest → Why
	OpNodes      Op = "nodes"         // nothing → []Node
	OpNodeDrain  Op = "nodes.drain"   // Drain → Drained
)

// WhyRequest asks about a LoadBalancer address, or about a Service's.
type WhyRequest struct {
	Addr    netip.Addr `json:"addr,omitzero"`
	Service string     `json:"service,omitempty"` // namespace/name, in place of an address
	Port    uint16     `json:"port,omitempty"`    // zero: all
	From    netip.Addr `json:"from,omitzero"`     // a client; may be left out
	// Probe has a node that doesn't have the address try it over the wire.
	Probe bool `json:"probe,omitempty"`
}

// Why is the chain from an address to its pods, link by link, as one node sees it.
type Why struct {
	Addr netip.Addr `json:"addr,omitzero"`
	Port uint16     `json:"port,omitempty"`
	Node string     `json:"node"` // that sees it so
	OK   bool       `json:"ok"`   // every link holds
	// Others are further addresses of the Service that was asked about.
	Others []netip.Addr `json:"others,omitempty"`
	// Verdict says in one line where the address is, or what is wrong first.
	Verdict    string      `json:"verdict"`
	Links      []WhyLink   `json:"links"`
	Candidates []Candidate `json:"candidates"` // best first
	Probes     []WireProbe `json:"probes,omitempty"`
}

// The states of a link.
const (
	LinkHolds  = "ok"
	LinkDoubt  = "unsure" // nothing is known, or it works in spite of this
	LinkBroken = "broken"
)

// WhyLink is one link of the chain.
type WhyLink struct {
	// Name is pool, allocation, service, owner, nic, answers, frontend, backends,
	// policy, reply, seen or probe.
	Name  string `json:"name"`
	State string `json:"state"`
	Text  string `json:"text"`
}

// Candidate is a node that could answer for the address.
type Candidate struct {
	Node     string `json:"node"`
	Owner    bool   `json:"owner"`
	Eligible bool   `json:"eligible"`
	Reason   string `json:"reason"` // for its place, or why it isn't eligible
}

// WireProbe is what a node saw of an address over the wire.
type WireProbe struct {
	By         string      `json:"by"`
	Owner      string      `json:"owner"`                // as that node knows it
	AnsweredBy []string    `json:"answeredBy,omitempty"` // nodes, or MAC addresses of others
	Ports      []PortProbe `json:"ports,omitempty"`
	Problem    string      `json:"problem,omitempty"`
}

// PortProbe is what became of a TCP connection.
type PortProbe struct {
	Port   uint16 `json:"port"`
	Answer string `json:"answer"` // accepted, refused or silent
	Tries  int    `json:"tries"`
}

// Node is a node as another one hears it.
type Node struct {
	Name     string       `json:"name"`
	Agent    string       `json:"agent"`              // heard, silent, or self
	Life     string       `json:"life"`               // of the node, whatever its agent does: alive, dead or unknown
	HeardOn  []string     `json:"heardOn,omitempty"`  // our NICs
	MissedOn []string     `json:"missedOn,omitempty"` // our NICs on which it should be heard
	Held     []netip.Addr `json:"held,omitempty"`     // addresses that it answers for
	Leaving  bool         `json:"leaving,omitempty"`
	Problem  string       `json:"problem,omitempty"` // why it can't be given addresses
}

// Drain asks for a node's addresses to be moved away, or lets it have some again.
type Drain struct {
	Node string `json:"node"` // "": the agent's own
	On   bool   `json:"on"`
}

// Drained is what became of it.
type Drained struct {
	Node string `json:"node"`
	On   bool   `json:"on"`
	// Kept are addresses that no other node could take over yet.
	Kept []netip.Addr `json:"kept,omitempty"`
}

// WhyAddress explains a LoadBalancer address.
func (c Client) WhyAddress(ctx context.Context, r WhyRequest) (Why, error) {
	var out Why
	err := c.call(ctx, OpAddressWhy, r, &out)
	return out, err
}

// Nodes lists the nodes as the agent's node hears them.
func (c Client) Nodes(ctx context.Context) ([]Node, error) { return get[[]Node](ctx, c, OpNodes) }

// DrainNode moves a node's addresses to other nodes, and returns once they are
// there, or after some seconds.
func (c Client) DrainNode(ctx context.Context, d Drain) (Drained, error) {
	var out Drained
	err := c.call(ctx, OpNodeDrain, d, &out)
	return out, err
}
