// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/test/oracle"
	"github.com/patchbay-net/patchbay/test/packet"
)

// place is where a backend is, seen from node a.
type place int

const (
	outside place = iota // also the node itself: the stack's
	podHere
	noPod // of this node's range, and there is none
	beside
	behind // the tunnel
)

func (n *node) place(a netip.Addr) place {
	for _, f := range oracle.Families() {
		bits := map[int]int{4: 24, 6: 48}[f]
		if a.Is4() != (f == 4) {
			continue
		}
		in := func(node int) bool {
			return netip.PrefixFrom(oracle.PodIP(f, node, 0), bits).Masked().Contains(a)
		}
		switch {
		case in(0):
			if _, ok := n.pod(a); ok {
				return podHere
			}
			return noPod
		case in(1) || a == oracle.NodeIP(f, 1):
			return beside
		case in(2) || a == oracle.NodeIP(f, 2):
			return behind
		}
	}
	return outside
}

// own tells whether the node has the address itself.
func (n *node) own(a netip.Addr) bool {
	return a == oracle.NodeIP(family(a), 0) || a == oracle.ExternalNodeIP(family(a), 0)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// masquerades tells whether a packet's backend has to see the node as its client.
func (n *node) masquerades(p oracle.Packet, backend netip.Addr) bool {
	return (p.From == oracle.Client || p.From == oracle.Peer) && n.place(backend) == outside && !n.own(backend)
}

// forwarded checks a packet that must go to a backend, and the backend's answer.
func (j *judge) forwarded(p oracle.Packet, want oracle.Outcome, w wire, r result) error {
	if r.dropped["no-pod"] == 1 && j.mayMiss(want) {
		return nil
	}
	src, backend, err := ends(r.frame)
	if err != nil || r.verdict == drop || len(r.dropped) > 0 {
		return fmt.Errorf("got %s", r)
	}
	seen, ok := want.Backends[backend]
	if !ok {
		return fmt.Errorf("went to %s", backend)
	}
	if seen.Port() == 0 {
		seen = netip.AddrPortFrom(seen.Addr(), src.Port())
	}
	if p.From == oracle.Host && j.node.own(backend.Addr()) && src.Addr() == p.Dst.Addr() {
		seen = netip.AddrPortFrom(p.Dst.Addr(), seen.Port())
	}
	flow := tuple{p.Src, p.Dst, p.Protocol}
	if before, ok := j.flows[flow]; ok {
		return j.arrives(w, r, before, first)
	}
	if src.Addr() == seen.Addr() && j.taken[tuple{seen, backend, p.Protocol}] {
		seen = src // another flow has the client's own port there
	}
	if t := (tuple{seen, backend, p.Protocol}); j.taken[t] {
		return fmt.Errorf("%s reaches %s in two flows", seen, backend)
	}
	f := begun{p, backend, seen}
	j.flows[flow] = f
	j.taken[tuple{seen, backend, p.Protocol}] = true
	if err := j.arrives(w, r, f, first); err != nil {
		return err
	}
	if err := j.sticks(p, want, backend); err != nil {
		return err
	}
	return j.answered(p, w, seen, backend)
}

// mayMiss tells whether one of the backends is a pod that isn't there.
func (j *judge) mayMiss(want oracle.Outcome) bool {
	for b := range want.Backends {
		if j.node.place(b.Addr()) == noPod {
			return true
		}
	}
	return false
}

// arrives checks the frame that leaves for a flow's backend.
func (j *judge) arrives(w wire, r result, f begun, which which) error {
	verdict, ttl, mark := redirect, uint8(64), uint32(0)
	out := w
	switch j.node.place(f.backend.Addr()) {
	case podHere:
		d, _ := j.node.pod(f.backend.Addr())
		out.eth = packet.Eth{Src: d.mac, Dst: d.other}
	case beside, behind:
		if w.program == "tc_uplink_in" {
			ttl = 63
		}
	case outside:
		verdict, mark = pass, markStack
		if j.node.masquerades(f.packet, f.backend.Addr()) {
			verdict, mark, ttl = redirect, 0, 63
		}
		if f.packet.From == oracle.Host && r.verdict == redirect {
			// It has left the stack already: it is sent on, or in again.
			verdict, mark = redirect, 0
			if j.node.own(f.backend.Addr()) {
				out.eth = packet.Eth{Src: w.eth.Dst, Dst: w.eth.Src}
			}
		}
	case noPod:
		return fmt.Errorf("got %s", r)
	}
	if r.verdict != verdict || mark != 0 && r.mark != mark {
		return fmt.Errorf("got %s with mark %#x", r, r.mark)
	}
	if d := packet.Diff(out.frame(f.seen, f.backend, which, ttl), r.frame); d != "" {
		return fmt.Errorf("frame (-want +got):\n%s", d)
	}
	return nil
}

// answered sends the backend's answer where it can be had here, and checks that
// the client gets it from whom it asked.
func (j *judge) answered(p oracle.Packet, w wire, seen, backend netip.AddrPort) error {
	n, back := j.node, w
	ttl := uint8(64)
	switch n.place(backend.Addr()) {
	case podHere:
		d, _ := n.pod(backend.Addr())
		back.program, back.device, back.eth = "tc_pod_in", d, packet.Eth{Src: d.other, Dst: d.mac}
	case beside:
		back.program, back.device, back.eth = "tc_uplink_in", n.internal, packet.Eth{Src: nodeBMAC, Dst: n.internal.mac}
		if p.From == oracle.Client || p.From == oracle.Peer {
			ttl = 63
		}
	default:
		if !n.masquerades(p, backend.Addr()) {
			return nil
		}
		back.program, back.device, back.eth = "tc_uplink_in", n.external, packet.Eth{Src: n.external.other, Dst: n.external.mac}
		ttl = 63
	}
	r := n.run(back.program, back.device.index, back.frame(backend, seen, answer, 64))
	want := w
	want.eth = packet.Eth{Src: w.eth.Dst, Dst: w.eth.Src}
	if r.verdict == drop || len(r.dropped) > 0 {
		return fmt.Errorf("the answer of %s: got %s", backend, r)
	}
	if d := packet.Diff(want.frame(p.Dst, p.Src, answer, ttl), r.frame); d != "" {
		return fmt.Errorf("the answer of %s (-want +got):\n%s", backend, d)
	}
	return nil
}

// rejected checks a packet that must be dropped and answered by a reset, or by
// port unreachable that quotes it.
func rejected(w wire, p oracle.Packet, in []byte, r result, reason string) error {
	if r.verdict != redirect || !maps.Equal(r.dropped, map[string]uint64{reason: 1}) {
		return fmt.Errorf("got %s", r)
	}
	l4 := 34
	if p.Src.Addr().Is6() {
		l4 = 54
	}
	src, dst, err := ends(r.frame)
	if err != nil || src.Addr() != p.Dst.Addr() || dst.Addr() != p.Src.Addr() ||
		!bytes.Equal(r.frame[:6], w.eth.Src[:]) || !bytes.Equal(r.frame[6:12], w.eth.Dst[:]) {
		return fmt.Errorf("the answer isn't for the sender: %s", packet.String(r.frame))
	}
	if w.protocol == corev1.ProtocolTCP {
		ack := binary.BigEndian.Uint32(r.frame[l4+8:])
		if src != p.Dst || dst != p.Src || r.frame[l4+13] != packet.RST|packet.ACK || ack != sequence+1 {
			return fmt.Errorf("got no reset: %s", packet.String(r.frame))
		}
		return nil
	}
	kind := []byte{3, 3}
	if l4 == 54 {
		kind = []byte{1, 4}
	}
	quoted := r.frame[min(l4+8, len(r.frame)):]
	if !bytes.HasPrefix(r.frame[l4:], kind) || len(quoted) < l4-14+8 || !bytes.HasPrefix(in[14:], quoted[:l4-14+8]) {
		return fmt.Errorf("got no port unreachable: %s", packet.String(r.frame))
	}
	return nil
}
