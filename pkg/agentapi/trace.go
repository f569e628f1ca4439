// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
)

// OpTrace says what would happen to a packet: TraceRequest → Trace. It changes
// and sends nothing.
const OpTrace Op = "trace"

// TraceRequest describes a packet. What is left out is chosen, and said in the
// answer.
type TraceRequest struct {
	// From is a pod (namespace/name, name or address), "node" for the node
	// itself, or an address elsewhere; "outside" is some address outside.
	From string `json:"from"`
	// To is an address with or without port, or namespace/name:port of a Service
	// or pod.
	To         string     `json:"to"`
	Protocol   string     `json:"protocol,omitempty"`   // tcp, udp, sctp, icmp; arp and nd ask who has To; empty: tcp
	SourcePort uint16     `json:"sourcePort,omitempty"` // zero: 40000
	NIC        string     `json:"nic,omitempty"`        // that it comes in by, from elsewhere
	Tunnel     netip.Addr `json:"tunnel,omitzero"`      // the node that it comes through the tunnel from
	MAC        string     `json:"mac,omitempty"`        // its source
	Flags      []string   `json:"flags,omitempty"`      // TCP's: syn, ack, fin, rst, psh
	TTL        uint8      `json:"ttl,omitempty"`
	Length     int        `json:"length,omitempty"` // of the payload
	NoFragment bool       `json:"noFragment,omitempty"`
	Packets    bool       `json:"packets,omitempty"` // past the sockets' programs
	// About makes it an ICMP error about the packet of Protocol from the first to
	// the second of these, ADDRESS:PORT each.
	About []string `json:"about,omitempty"`
	// Frame is all of the packet, from its Ethernet header on. From may be left out
	// then, and so is all that the frame says itself.
	Frame []byte `json:"frame,omitempty"`
}

// Trace is what would happen.
type Trace struct {
	Packet string       `json:"packet"`
	Notes  []string     `json:"notes,omitempty"` // what was assumed, and what can't be seen from here
	Socket *TraceSocket `json:"socket,omitempty"`
	There  TraceWalk    `json:"there"`
	Back   *TraceWalk   `json:"back,omitempty"` // the way of the answer
}

// TraceSocket is what connect() or sendmsg() does, before there is a packet.
type TraceSocket struct {
	Text     string           `json:"text"`
	Balanced bool             `json:"balanced"`
	Backends []netip.AddrPort `json:"backends,omitempty"` // any of these; the packet below is for the first named in Text
}

// TraceWalk is a packet's way through this node.
type TraceWalk struct {
	Hops []TraceHop `json:"hops"`
	End  TraceEnd   `json:"end"`
}

// TraceHop is one program, or the node's stack.
type TraceHop struct {
	Program string      `json:"program"` // empty: the node's stack
	Device  string      `json:"device"`
	Packet  string      `json:"packet"` // as it came here
	Steps   []TraceStep `json:"steps"`
}

// TraceStep is what was done, in words.
type TraceStep struct {
	Topic string `json:"topic"`
	Text  string `json:"text"`
}

// TraceEnd is what became of the packet.
type TraceEnd struct {
	Kind   string `json:"kind"` // pod, node, wire, tunnel, dropped, refused or answered
	Device string `json:"device,omitempty"`
	Reason string `json:"reason,omitempty"` // of a drop, as the counters name it
	Text   string `json:"text"`
	Next   string `json:"next,omitempty"` // how to go on at the node that it is sent to
	// Onward is Next for that node's agent, which has the address Hop.
	Onward *TraceRequest `json:"onward,omitempty"`
	Hop    netip.Addr    `json:"hop,omitzero"`
	Node   string        `json:"node,omitempty"`   // that node, if it is known
	There  *Trace        `json:"there,omitempty"`  // what its agent says
	Unsaid string        `json:"unsaid,omitempty"` // why its agent says nothing
}

// Trace asks what would happen to a packet.
func (c Client) Trace(ctx context.Context, r TraceRequest) (Trace, error) {
	var t Trace
	err := c.call(ctx, OpTrace, r, &t)
	return t, err
}
