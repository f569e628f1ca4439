// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/test/oracle"
	"github.com/patchbay-net/patchbay/test/packet"
)

const markStack = 0x20540002 // of a packet that was translated for the node's own stack

// judge compares what the programs do with what the oracle allows, for the
// packets of one state.
type judge struct {
	node  *node
	state *oracle.State
	taken map[tuple]bool // what backends have seen
	flows map[tuple]begun
	stuck map[sticking]netip.AddrPort
}

// begun is a flow that began.
type begun struct {
	packet        oracle.Packet
	backend, seen netip.AddrPort // where it went, and as whose
}

// tuple is addresses, ports and protocol.
type tuple struct {
	src, dst netip.AddrPort
	protocol corev1.Protocol
}

// sticking is what affinity is for: a client of a frontend, by packets or sockets.
type sticking struct {
	client   netip.Addr
	socket   bool
	outside  bool
	frontend netip.AddrPort
	protocol corev1.Protocol
}

func (n *node) judge(s *oracle.State) *judge {
	return &judge{n, s, map[tuple]bool{}, map[tuple]begun{}, map[sticking]netip.AddrPort{}}
}

// continues judges the next state, to which the flows go on: it sends a packet of
// each. Those that end begin anew.
func (j *judge) continues(s *oracle.State) (*judge, error) {
	next := j.node.judge(s)
	next.taken = j.taken
	flows := slices.SortedFunc(maps.Values(j.flows), func(a, b begun) int { return a.packet.Src.Compare(b.packet.Src) })
	for _, f := range flows {
		p := f.packet
		if !s.Continue(p, f.backend) {
			delete(next.taken, tuple{f.seen, f.backend, p.Protocol})
			if err := next.check(p); err != nil {
				return nil, fmt.Errorf("a flow to %s that had to end: %w", f.backend, err)
			}
			continue
		}
		w := j.wire(p)
		r := j.node.run(w.program, w.device.index, w.frame(p.Src, p.Dst, later, 64))
		if err := next.arrives(w, r, f, later); err != nil {
			return nil, fmt.Errorf("%s %s from %s to %s: a flow to %s that had to go on: %w", p.From, p.Protocol, p.Src, p.Dst, f.backend, err)
		}
		next.flows[tuple{p.Src, p.Dst, p.Protocol}] = f
	}
	return next, nil
}

// check sends a packet and returns what is wrong with what becomes of it.
func (j *judge) check(p oracle.Packet) error {
	want := j.state.Decide(p)
	err := j.compare(p, want)
	if err != nil {
		return fmt.Errorf("%s %s from %s to %s: want %s %s %v: %w", p.From, p.Protocol, p.Src, p.Dst, want.Verdict, want.Reason, want.Backends, err)
	}
	return nil
}

func (j *judge) compare(p oracle.Packet, want oracle.Outcome) error {
	if p.From == oracle.Socket {
		return j.connects(p, want)
	}
	w := j.wire(p)
	in := w.frame(p.Src, p.Dst, first, 64)
	r := j.node.run(w.program, w.device.index, in)
	switch want.Verdict {
	case oracle.Forward:
		return j.forwarded(p, want, w, r)
	case oracle.Reject:
		return rejected(w, p, in, r, want.Reason)
	case oracle.Drop:
		if r.verdict != drop || !maps.Equal(r.dropped, map[string]uint64{want.Reason: 1}) {
			return fmt.Errorf("got %s", r)
		}
		return nil
	}
	if r.verdict == drop || len(r.dropped) > 0 || !bytes.Equal(r.frame, in) {
		return fmt.Errorf("got %s:\n%s", r, packet.Diff(in, r.frame))
	}
	return nil
}

// enough packets reach each of a few backends, but for a chance of 10⁻¹⁰.
const enough = 200

// covers checks that all backends of one frontend get packets, sooner or later.
func (j *judge) covers(r *oracle.Random, ports uint16) error {
	for _, p := range r.Packets(j.state, packetsOfState) {
		want := j.state.Decide(p)
		if p.From == oracle.Socket || p.From == oracle.Host || len(want.Backends) < 2 || want.Sticky || j.mayMiss(want) {
			continue
		}
		w := j.wire(p)
		for port := ports; port < ports+enough && len(want.Backends) > 0; port++ {
			src := netip.AddrPortFrom(p.Src.Addr(), port)
			if _, backend, err := ends(j.node.run(w.program, w.device.index, w.frame(src, p.Dst, first, 64)).frame); err == nil {
				delete(want.Backends, backend)
			}
		}
		if len(want.Backends) > 0 {
			return fmt.Errorf("%s %s from %s to %s: no packet of %d went to %v", p.From, p.Protocol, p.Src.Addr(), p.Dst, enough, want.Backends)
		}
		return nil
	}
	return nil
}

// connects checks a connect().
func (j *judge) connects(p oracle.Packet, want oracle.Outcome) error {
	got := j.node.sockets.connect(p, p.Dst.Addr().Is4() && p.Src.Port()%2 == 0)
	if want.Verdict != oracle.Forward {
		if got != p.Dst {
			return fmt.Errorf("went to %s", got)
		}
		return nil
	}
	if _, ok := want.Backends[got]; !ok {
		return fmt.Errorf("went to %s", got)
	}
	return j.sticks(p, want, got)
}

// sticks checks that a client of a Service with affinity stays where it was.
func (j *judge) sticks(p oracle.Packet, want oracle.Outcome, backend netip.AddrPort) error {
	if !want.Sticky {
		return nil
	}
	key := sticking{p.Src.Addr(), p.From == oracle.Socket, p.From == oracle.Client, p.Dst, p.Protocol}
	if before, ok := j.stuck[key]; ok && before != backend {
		return fmt.Errorf("went to %s, the client's last was to %s", backend, before)
	}
	j.stuck[key] = backend
	return nil
}

// wire is how a packet's frames look where they come in.
type wire struct {
	program  string
	device   device
	eth      packet.Eth
	protocol corev1.Protocol
}

func (j *judge) wire(p oracle.Packet) wire {
	n := j.node
	d := n.internal
	if p.External {
		d = n.external
	}
	switch p.From {
	case oracle.Pod:
		d, _ := n.pod(p.Src.Addr())
		return wire{"tc_pod_in", d, packet.Eth{Src: d.other, Dst: d.mac}, p.Protocol}
	case oracle.Host:
		return wire{"tc_uplink_out", n.internal, packet.Eth{Src: n.internal.mac, Dst: n.internal.other}, p.Protocol}
	case oracle.Peer:
		return wire{"tc_uplink_in", n.internal, packet.Eth{Src: nodeBMAC, Dst: n.internal.mac}, p.Protocol}
	}
	return wire{"tc_uplink_in", d, packet.Eth{Src: d.other, Dst: d.mac}, p.Protocol}
}

// which of a flow's packets a frame is.
type which int

const (
	first which = iota
	answer
	later
)

const sequence = 99

// frame builds one of the flow's packets.
func (w wire) frame(src, dst netip.AddrPort, which which, ttl uint8) []byte {
	var ip packet.Layer = packet.IPv4{Src: src.Addr(), Dst: dst.Addr(), TTL: ttl}
	if src.Addr().Is6() {
		ip = packet.IPv6{Src: src.Addr(), Dst: dst.Addr(), HopLimit: ttl}
	}
	switch w.protocol {
	case corev1.ProtocolTCP:
		tcp := packet.TCP{Src: src.Port(), Dst: dst.Port(), Flags: packet.SYN, Seq: sequence}
		switch which {
		case answer:
			tcp.Flags = packet.SYN | packet.ACK
		case later:
			tcp.Flags = packet.ACK
		}
		return packet.Build(w.eth, ip, tcp)
	case corev1.ProtocolUDP:
		return packet.Build(w.eth, ip, packet.UDP{Src: src.Port(), Dst: dst.Port()}, packet.Payload("question"))
	}
	sctp := packet.SCTP{Src: src.Port(), Dst: dst.Port(), Tag: 7}
	if which == first {
		sctp.Tag = 0
	}
	return packet.Build(w.eth, ip, sctp, packet.Payload("chunks"))
}

// ends reads a frame's addresses and ports.
func ends(frame []byte) (src, dst netip.AddrPort, err error) {
	at, length := 26, 4
	if len(frame) > 14 && frame[14]>>4 == 6 {
		at, length = 22, 16
	}
	ports := at + 2*length
	if len(frame) < ports+4 {
		return src, dst, fmt.Errorf("frame of %d bytes", len(frame))
	}
	a, _ := netip.AddrFromSlice(frame[at : at+length])
	b, _ := netip.AddrFromSlice(frame[at+length : ports])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(frame[ports:])),
		netip.AddrPortFrom(b, binary.BigEndian.Uint16(frame[ports+2:])), nil
}

// String says what a run did.
func (r result) String() string {
	name, ok := map[uint32]string{pass: "pass", drop: "drop", redirect: "redirect"}[r.verdict]
	if !ok {
		name = fmt.Sprint(r.verdict)
	}
	if src, dst, err := ends(r.frame); err == nil {
		name += fmt.Sprintf(", %s to %s", src, dst)
	}
	return fmt.Sprintf("%s, dropped %v", name, r.dropped)
}
