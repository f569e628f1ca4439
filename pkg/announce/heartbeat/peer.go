// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"net/netip"
	"slices"
	"time"
)

// peer is another node as it is known here.
type peer struct {
	name  string
	addrs []netip.Addr // as the objects say
	pairs map[int]*pair

	life    uint64   // its incarnation; 0: not heard yet
	retired []uint64 // those before, whose packets count no more
	digest  uint64   // of the state last told
	known   bool     // that state is here
	latest  uint64   // the highest number of a packet
	told    uint64   // and the digest in it
	state   State
	pages   collector

	heard   time.Time // when, on whatever NIC
	since   time.Time // heard without a break since
	alive   bool
	wanted  time.Time // when its state was last asked for
	greeted time.Time // when it was last told that it must say who it is
}

// pair is one of our NICs and the peer's address that is reached by it.
type pair struct {
	link     *Link
	remote   netip.AddrPort
	onLink   bool // no router between
	numbers  window
	heard    time.Time
	alive    bool
	silent   time.Time // from when on it could have been heard
	asked    int       // how often its kernel was asked since then
	answered time.Time // when its kernel last did
}

const retiredMax = 64

// window knows the numbers of packets that came: the highest, and which of the
// 64 before. A network may bring packets out of order, but none twice.
type window struct{ top, seen uint64 }

// first tells whether a number comes for the first time, as far as is known.
func (w *window) first(number uint64) bool {
	if number > w.top {
		w.seen = w.seen<<min(number-w.top, 64) | 1
		w.top = number
		return true
	}
	bit := uint64(1) << min(w.top-number, 64)
	if bit == 0 || w.seen&bit != 0 {
		return false
	}
	w.seen |= bit
	return true
}

// fromNow is the window of a new pair: a peer's numbers rise whatever way its
// packets take, so those that were recorded before come too late there as well.
func (p *peer) fromNow() window { return window{top: p.latest, seen: ^uint64(0)} }

// accept judges who speaks: the peer as it is known, one that has started anew,
// or one that does not know us yet, or is played back, and must say more.
func (p *peer) accept(h header, own uint64) bool {
	if h.echo != own || h.life == 0 || slices.Contains(p.retired, h.life) {
		return false
	}
	if h.life == p.life {
		return true
	}
	if p.life != 0 {
		p.retired = append(p.retired, p.life)
		if len(p.retired) > retiredMax {
			p.retired = p.retired[1:]
		}
	}
	p.life, p.known, p.digest, p.pages = h.life, false, 0, collector{} // what it told counts until it tells anew
	p.alive, p.latest, p.told = false, 0, 0
	for _, pr := range p.pairs {
		pr.numbers, pr.alive = window{}, false
	}
	return true
}

// hear notes that the peer was heard on a pair, and tells whether that is news.
func (p *peer) hear(pr *pair, now time.Time) (news bool) {
	news = !pr.alive || !p.alive
	pr.alive, pr.heard, pr.asked = true, now, 0
	if !p.alive {
		p.alive, p.since = true, now
		for _, other := range p.pairs {
			other.silent = now // it could not have been heard before
		}
	}
	p.heard = now
	return news
}

// silence judges who hasn't been heard for too long, and tells whether that is news.
func (p *peer) silence(now time.Time) (news bool) {
	alive := false
	for _, pr := range p.pairs {
		if pr.alive && now.Sub(pr.heard) >= Silence {
			pr.alive, news = false, true
		}
		alive = alive || pr.alive
	}
	if p.alive && !alive {
		p.alive, news = false, true
	}
	return news
}

// quiet is for how long the peer hasn't been heard on a pair.
func (pr *pair) quiet(now time.Time) time.Duration {
	if pr.heard.After(pr.silent) {
		return now.Sub(pr.heard)
	}
	return now.Sub(pr.silent)
}

// mac is the peer's address on the wire, if it has told it.
func (p *peer) mac(addr netip.Addr) [6]byte {
	for _, n := range p.state.NICs {
		for _, a := range n.Addrs {
			if a.Addr() == addr {
				return n.MAC
			}
		}
	}
	return [6]byte{}
}

// rewire makes the pairs fit our NICs and the peer's addresses: on each NIC the
// address that is on its network, and if there is none on any, the first one by
// whatever NIC the underlay is.
func (p *peer) rewire(links []Link, port uint16, now time.Time) {
	var addrs []netip.Addr
	for _, n := range p.state.NICs {
		addrs = append(addrs, n.Source)
	}
	addrs = append(addrs, p.addrs...)
	wanted := make(map[int]bool)
	for i := range links {
		l := &links[i]
		at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return l.reaches(a) })
		if at >= 0 {
			wanted[l.Index] = true
			p.wire(l, netip.AddrPortFrom(addrs[at], port), true, now)
		}
	}
	if len(wanted) == 0 {
		p.route(links, addrs, port, now, wanted)
	}
	for index := range p.pairs {
		if !wanted[index] {
			delete(p.pairs, index)
		}
	}
}

func (p *peer) route(links []Link, addrs []netip.Addr, port uint16, now time.Time, wanted map[int]bool) {
	for i := range links {
		l := &links[i]
		at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == l.Addr.Is4() })
		if l.Underlay && at >= 0 {
			wanted[l.Index] = true
			p.wire(l, netip.AddrPortFrom(addrs[at], port), false, now)
		}
	}
}

func (p *peer) wire(l *Link, remote netip.AddrPort, onLink bool, now time.Time) {
	if have, ok := p.pairs[l.Index]; ok && have.remote == remote && have.link.Addr == l.Addr {
		if l.Carrier && !have.link.Carrier {
			have.silent = now
		}
		have.link, have.onLink = l, onLink
		return
	}
	p.pairs[l.Index] = &pair{link: l, remote: remote, onLink: onLink, silent: now, numbers: p.fromNow()}
}

// sorted are the pairs by NIC.
func (p *peer) sorted() []*pair {
	list := make([]*pair, 0, len(p.pairs))
	for _, pr := range p.pairs {
		list = append(list, pr)
	}
	slices.SortFunc(list, func(a, b *pair) int { return a.link.Index - b.link.Index })
	return list
}
