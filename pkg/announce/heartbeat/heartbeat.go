// SPDX-License-Identifier: Apache-2.0

// Package heartbeat keeps the nodes' agents in touch, without an API server:
// each sends every other a small sealed packet by each NIC that they share,
// every 100 ms, and tells what it is like whenever that changes. From it follows
// who is alive, on which NIC, and what each one holds.
//
// A packet names its sender's life (a random number, new at each start) and the
// receiver's as the sender knows it: only who answers this process, now, is
// heard, and packets' numbers only rise. So nothing that was recorded can be
// played back, and no clock is needed but the monotonic one.
//
// A silent agent is not a dead node: where beats are missing the node's kernel
// is asked (ARP, neighbour solicitation), which answers whatever its agent does.
// And who was asleep itself (stopped, starved, suspended) knows nothing: after a
// gap in its own ticking it begins to count anew.
package heartbeat

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The times of the protocol.
const (
	Interval = 100 * time.Millisecond
	Silence  = 5 * Interval // after which an agent counts as dead
	// stall is the gap in our own ticking after which silence means nothing.
	stall = 3 * Interval
	// settle is how long is listened before silence means something.
	settle = Silence + Interval
)

// Link is a NIC of this node with a role.
type Link struct {
	NIC
	Index    int
	Addr     netip.Addr // packets' source
	Underlay bool       // what isn't on any NIC's network is reached by it
}

// reaches tells whether an address of the same family is on the NIC's network.
func (l *Link) reaches(addr netip.Addr) bool {
	return addr.Is4() == l.Addr.Is4() && slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool {
		return p.Contains(addr) && p.Addr() != addr && !p.IsSingleIP()
	})
}

// Member is another node as the objects name it.
type Member struct {
	Name  string
	Addrs []netip.Addr // most likely to be reached first
}

// Transport sends. What comes in it hands to Receive, Answered and Heard.
type Transport interface {
	// Send sends a packet out of a NIC.
	Send(link int, from netip.Addr, to netip.AddrPort, packet []byte) error
	// Enquire has the kernel that has addr answer; a zero mac asks everybody.
	Enquire(link int, addr netip.Addr, mac [6]byte) error
	// Outside has others than nodes on the NIC's network answer, if there are any.
	Outside(link int) error
}

// Options are what a Heartbeat works with.
type Options struct {
	Node      string
	Key       []byte // of the cluster; without one anybody can speak
	Port      uint16
	Transport Transport
	Log       *slog.Logger
	// Now is the clock, nil: time.Now. Only its monotonic reading counts: what the
	// machine's wall clock does moves nothing.
	Now func() time.Time
	// Changed is called after each change of the view, with no lock held.
	Changed func()
}

// Heartbeat is one node's part. Make one with New.
type Heartbeat struct {
	Options
	life uint64

	mu      sync.Mutex
	seal    *sealer
	number  uint64
	links   []Link
	peers   map[string]*peer
	state   State
	pages   pages
	outside map[int]*outside // by NIC, while somebody is missed on it
	missing bool             // somebody is, on whatever NIC, as of the last tick
	ticked  time.Time
	settled time.Time
	away    bool // it stood still for so long, before it last began to listen, that the others took it for dead
	room    []byte
	asks    asks
	strange int // packets refused
}

// New returns a heartbeat that nothing is known to.
func New(o Options) *Heartbeat {
	if o.Now == nil {
		o.Now = time.Now
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	h := &Heartbeat{Options: o, life: binary.NativeEndian.Uint64(raw[:]) | 1, seal: newSealer(o.Key), peers: map[string]*peer{}, outside: map[int]*outside{}}
	h.asks.init()
	h.pages, _ = paginate(h.state) // an empty state can be encoded
	return h
}

// Run sends and judges until ctx ends.
func (h *Heartbeat) Run(ctx context.Context) error {
	timer := time.NewTimer(Interval)
	defer timer.Stop()
	h.mu.Lock()
	if h.ticked.IsZero() {
		h.ticked = h.Now()
		h.settled = h.ticked.Add(settle)
	}
	h.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(h.pace())
			h.tick()
		}
	}
}

// pace is the time to the next tick. All fall in with the first of the nodes,
// a few milliseconds at a time: who ticks when the others' packets come in is
// woken once where it would be for each.
func (h *Heartbeat) pace() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.Node
	for name, p := range h.peers {
		if p.alive && name < first {
			first = name
		}
	}
	if first == h.Node {
		return Interval
	}
	const most = Interval / 25
	behind := h.Now().Sub(h.peers[first].heard) % Interval
	if behind < Interval/2 {
		return Interval - min(behind, most)
	}
	return Interval + min(Interval-behind, most)
}

// tick judges and sends.
func (h *Heartbeat) tick() {
	h.mu.Lock()
	now := h.Now()
	news := false
	if now.Sub(h.ticked) > stall {
		h.restart(now)
		news = true
	}
	unsettled := h.ticked.Before(h.settled)
	h.ticked = now
	news = news || unsettled && !now.Before(h.settled)
	for _, p := range h.peers {
		news = p.silence(now) || news
		news = h.enquire(p, now) || news
	}
	unsteady := h.unsteady(now)
	told := (news || unsteady) && h.retell(now)
	for _, p := range h.peers {
		for _, pr := range p.pairs {
			h.send(p, pr, kindBeat, 0, nil)
		}
	}
	h.mu.Unlock()
	if news || told {
		h.Changed()
	}
}

// unsteady tells whether what is told of the NICs may change by time alone, or
// has just ceased to.
func (h *Heartbeat) unsteady(now time.Time) bool {
	was := h.missing
	h.missing = false
	for i := range h.links {
		h.missing = h.missing || h.misses(&h.links[i], now)
	}
	return was || h.missing
}

// restart begins to count anew.
func (h *Heartbeat) restart(now time.Time) {
	h.Log.Info("stood still", "for", now.Sub(h.ticked))
	h.settled, h.away = now.Add(settle), now.Sub(h.ticked) >= Silence
	for _, p := range h.peers {
		p.known = false // it may have told anything meanwhile
		if p.alive {
			p.heard = now
		}
		for _, pr := range p.pairs {
			pr.asked, pr.silent = 0, now
			if pr.alive {
				pr.heard = now
			}
		}
	}
}

// enquire asks the kernel of a node that beats are missing from, and tells
// whether the node's life may be judged differently now. Who was away asks at
// once: an agent that lives has taken it for dead, and answers its first beat.
func (h *Heartbeat) enquire(p *peer, now time.Time) (news bool) {
	back := h.away && !p.known && now.Before(h.settled)
	for _, pr := range p.pairs {
		quiet := pr.quiet(now)
		if quiet < doubt && !back || !pr.onLink || !pr.link.Carrier {
			continue
		}
		if quiet >= doubt {
			pr.asked++
		}
		if pr.asked > rarely && pr.asked%10 != 0 {
			continue
		}
		if err := h.Transport.Enquire(pr.link.Index, pr.remote.Addr(), p.mac(pr.remote.Addr())); err != nil {
			h.Log.Debug("ask a kernel", "node", p.name, "err", err)
		}
		news = news || pr.asked <= 6 || now.Sub(pr.answered) < 2*pr.fresh()
	}
	return news
}

// rarely is the number of questions, ten minutes of them, after which a node
// that stays away is asked once a second.
const rarely = 6000

// send sends a packet to a peer.
func (h *Heartbeat) send(p *peer, pr *pair, kind, flags byte, body []byte) {
	h.sendAs(p, pr, p.life, kind, flags, body)
}

func (h *Heartbeat) sendAs(p *peer, pr *pair, echo uint64, kind, flags byte, body []byte) {
	if !pr.link.Carrier {
		return
	}
	h.number++
	head := header{kind: kind, flags: flags, from: h.Node, to: p.name, life: h.life, echo: echo, number: h.number, digest: h.pages.digest}
	packet := append(head.append(h.room[:0]), body...)
	packet = h.seal.seal(packet, pr.link.Addr, pr.remote.Addr())
	h.room = packet
	if err := h.Transport.Send(pr.link.Index, pr.link.Addr, pr.remote, packet); err != nil {
		h.Log.Debug("send", "node", p.name, "link", pr.link.Name, "err", err)
	}
}

// sendState sends all pages.
func (h *Heartbeat) sendState(p *peer, pr *pair) {
	for _, body := range h.pages.bodies {
		h.send(p, pr, kindState, 0, body)
	}
}

// retell renews what this node tells of itself, and sends it if it changed.
func (h *Heartbeat) retell(now time.Time) (changed bool) {
	h.state.NICs = make([]NIC, 0, len(h.links))
	for i := range h.links {
		h.state.NICs = append(h.state.NICs, h.tell(&h.links[i], now))
	}
	next, err := paginate(h.state)
	if err != nil {
		h.Log.Error("tell", "err", err)
		return false
	}
	if next.digest == h.pages.digest {
		return false
	}
	h.pages = next
	for _, p := range h.peers {
		for _, pr := range p.pairs {
			h.sendState(p, pr)
		}
	}
	return true
}

// tell is a NIC as it is told. Whom the others aren't, as their agents are dead,
// nobody hears: that says nothing of the NIC.
func (h *Heartbeat) tell(l *Link, now time.Time) NIC {
	n := l.NIC
	n.Source = l.Addr
	for _, name := range h.names() {
		p := h.peers[name]
		pr, ok := p.pairs[l.Index]
		switch {
		case !ok || !p.alive || !pr.onLink:
		case pr.alive:
			n.Hears = append(n.Hears, name)
		case pr.quiet(now) >= Silence:
			n.Missed = append(n.Missed, name)
		}
	}
	if !l.External || !l.Carrier || !h.misses(l, now) {
		delete(h.outside, l.Index)
		return n
	}
	n.Outside = h.askOutside(l, now)
	return n
}

// misses tells whether a living agent isn't heard by a NIC by which it should be,
// or says that it doesn't hear this node on that network: the link may work one
// way, and who is heard on it must show as well whom else it reaches.
func (h *Heartbeat) misses(l *Link, now time.Time) bool {
	for _, p := range h.peers {
		if pr, ok := p.pairs[l.Index]; ok && p.alive && pr.onLink && !pr.alive || ok && pr.alive && pr.quiet(now) >= doubt {
			return true
		}
		if p.alive && p.known && slices.ContainsFunc(p.state.NICs, func(n NIC) bool { return l.shares(n) && slices.Contains(n.Missed, h.Node) }) {
			return true
		}
	}
	return false
}

// shares tells whether another node's NIC is on the NIC's network.
func (l *Link) shares(n NIC) bool {
	return slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return l.reaches(p.Addr()) })
}

func (h *Heartbeat) names() []string {
	names := make([]string, 0, len(h.peers))
	for name := range h.peers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetLinks makes these the NICs that are spoken by.
func (h *Heartbeat) SetLinks(links []Link) {
	h.change(func(now time.Time) {
		h.links = slices.Clone(links)
		slices.SortFunc(h.links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
		for _, p := range h.peers {
			p.rewire(h.links, h.Port, now)
		}
	})
}

// SetMembers makes these the other nodes.
func (h *Heartbeat) SetMembers(members []Member) {
	h.change(func(now time.Time) {
		named := make(map[string]bool)
		for _, m := range members {
			named[m.Name] = true
			p := h.peers[m.Name]
			if p == nil {
				p = &peer{name: m.Name, pairs: map[int]*pair{}}
				h.peers[m.Name] = p
			}
			p.addrs = m.Addrs
			p.rewire(h.links, h.Port, now)
		}
		for name := range h.peers {
			if !named[name] {
				delete(h.peers, name)
			}
		}
	})
}

// SetHeld tells the others at once what this node answers for.
func (h *Heartbeat) SetHeld(held []Held) {
	h.change(func(time.Time) { h.state.Held = held })
}

// SetLeaving tells the others at once whether this node leaves.
func (h *Heartbeat) SetLeaving(leaving bool) {
	h.change(func(time.Time) { h.state.Leaving = leaving })
}

// change makes a change of what this node is like, and tells it.
func (h *Heartbeat) change(f func(now time.Time)) {
	h.mu.Lock()
	now := h.Now()
	f(now)
	changed := h.retell(now)
	h.mu.Unlock()
	if changed {
		h.Changed()
	}
}
