// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"net/netip"
	"time"
)

// Receive takes a packet in that came by a NIC.
func (h *Heartbeat) Receive(link int, from netip.AddrPort, to netip.Addr, packet []byte) {
	h.mu.Lock()
	news, then := h.receive(link, from, to, packet)
	h.mu.Unlock()
	if news {
		h.Changed()
	}
	if then != nil {
		then()
	}
}

// receive returns whether the view has changed, and what is to be done with no
// lock held.
func (h *Heartbeat) receive(link int, from netip.AddrPort, to netip.Addr, packet []byte) (news bool, then func()) {
	now := h.Now()
	raw, err := h.seal.open(packet, from.Addr(), to)
	if err != nil {
		h.refuse(from, err)
		return false, nil
	}
	head, body, err := parseHeader(raw)
	if err != nil {
		h.refuse(from, err)
		return false, nil
	}
	p, ok := h.peers[head.from]
	if !ok || head.to != h.Node {
		return false, nil // a node that we know nothing of yet
	}
	pr, ok := p.pairs[link]
	if !ok || !pr.alive && pr.remote.Addr() != from.Addr().Unmap() {
		if pr = h.unknown(link, from, now); pr == nil {
			return false, nil
		}
	}
	if !p.accept(head, h.life) {
		h.greet(p, pr, head, now)
		return false, nil
	}
	if p.pairs[link] != pr {
		p.pairs[link], pr.numbers = pr, p.fromNow() // learnt
	}
	if !pr.numbers.first(head.number) {
		return false, nil
	}
	again := !pr.alive
	news = p.hear(pr, now)
	if again {
		h.send(p, pr, kindBeat, 0, nil) // it need not wait for us
	}
	news = h.digest(p, pr, head, body, now) || news
	if head.flags&flagWant != 0 {
		h.sendState(p, pr)
	}
	switch head.kind {
	case kindAsk:
		then = h.asked(p, pr, body)
	case kindAnswer:
		h.asks.answer(p.name, body)
	}
	return news, then
}

func (h *Heartbeat) refuse(from netip.AddrPort, err error) {
	if h.strange++; h.strange&(h.strange-1) == 0 { // the first, and ever fewer
		h.Log.Warn("packet refused", "from", from, "err", err, "so far", h.strange)
	}
}

// greet has a peer that doesn't know us, or that we don't know, say who it is in
// words that nobody can have recorded: with our life in them. The beats that go
// on meanwhile stay as they are: what was played back changes nothing.
func (h *Heartbeat) greet(p *peer, pr *pair, head header, now time.Time) {
	if now.Sub(p.greeted) < Interval/10 {
		return
	}
	p.greeted = now
	h.sendAs(p, pr, head.life, kindBeat, 0, nil)
}

// digest takes in what the peer says of its state.
func (h *Heartbeat) digest(p *peer, pr *pair, head header, body []byte, now time.Time) (news bool) {
	if head.number > p.latest {
		p.latest, p.told = head.number, head.digest
	}
	if p.told != head.digest || p.known && p.digest == head.digest {
		return false // overtaken by another packet, or known
	}
	news, p.known = p.known, false
	if head.kind != kindState {
		if now.Sub(p.wanted) >= Interval/4 {
			p.wanted = now
			h.send(p, pr, kindBeat, flagWant, nil)
		}
		return news
	}
	state, whole, err := p.pages.add(head.digest, body)
	if err != nil {
		h.Log.Warn("state refused", "node", p.name, "err", err)
		return news
	}
	if !whole {
		return news
	}
	p.state, p.digest, p.known = state, head.digest, true
	p.rewire(h.links, h.Port, now)
	return true
}

// unknown makes a pair for a peer whose address by this NIC wasn't known. It is
// the peer's only once that has been accepted: what is played back moves nothing.
func (h *Heartbeat) unknown(link int, from netip.AddrPort, now time.Time) *pair {
	for i := range h.links {
		if l := &h.links[i]; l.Index == link {
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			return &pair{link: l, remote: from, onLink: l.reaches(from.Addr()), silent: now}
		}
	}
	return nil
}

// Answered takes in that the kernel with addr has answered on a NIC: with a MAC
// of the node's, where those are known.
func (h *Heartbeat) Answered(link int, addr netip.Addr, mac [6]byte) {
	h.mu.Lock()
	now, news, node := h.Now(), false, false
	for _, p := range h.peers {
		if pr, ok := p.pairs[link]; ok && pr.remote.Addr() == addr && pr.onLink && (p.mac(addr) == [6]byte{} || p.has(mac)) {
			news = news || now.Sub(pr.answered) >= pr.fresh()
			pr.answered, node = now, true
		}
		node = node || p.has(mac)
	}
	if o := h.outside[link]; o != nil && !node {
		o.hear(mac, now)
	}
	h.mu.Unlock()
	if news {
		h.Changed()
	}
}

// has tells whether a NIC of the peer has that MAC.
func (p *peer) has(mac [6]byte) bool {
	for _, n := range p.state.NICs {
		if n.MAC == mac {
			return true
		}
	}
	return false
}
