// SPDX-License-Identifier: Apache-2.0

// Package holder decides when this node answers for an address. Who should is
// announce.Choose's word; this package sees to it that never two do, but for
// the moment in which they first hear each other, and never none while one can.
// See the package comment of pkg/announce for the protocol.
package holder

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// The times of the protocol, beside the heartbeat's.
const (
	// Grace is how long a node whose agent is gone, and whose kernel goes on
	// answering for its addresses, keeps them: most agents come back.
	Grace = 5 * time.Second
	// HoldDown is how long a node must have been well to be handed addresses back.
	HoldDown = 10 * time.Second
	// renewMost is how often at least the kernel's entries get a new expiry.
	renewMost = 10 * time.Second
	// turn is how long each node lets the one before it in the order take over.
	turn = 3 * heartbeat.Interval
	// look is how often the kernel's entries are looked at unasked.
	look = 5 * heartbeat.Interval
	// yielding is what the kernel that had an address may take to hear the claim
	// and stop answering: no question is answered twice.
	yielding = 8 * time.Millisecond
	// manners is how long a peer whose kernel answers again may take to say so by
	// its beats: its agent, if it lives, is asked along with its kernel. Twice that
	// where it has to say what it holds, too.
	manners = 20 * time.Millisecond
	// asking is how long a takeover waits for its probe's result: on a machine that
	// is short of everything a socket may take seconds to open.
	asking = 4 * heartbeat.Interval
	// conflictRetry is how often an address that a stranger uses is tried again.
	conflictRetry = 2 * time.Second
)

// Want is an address that has to be answered for.
type Want struct {
	Addr netip.Addr
	// Link is the index of this node's NIC to answer on; 0: it has none that works.
	Link int
	// Order are the nodes that can have it now, best first.
	Order []string
	// Best is the one that should have it once all is calm, out of those that
	// have been well for long; "": none has.
	Best string
	// Blind: nothing is known of it but that this node answers for it.
	Blind bool
}

// Kernel is what a Machine does to the node.
type Kernel interface {
	// Announce has the address answered for; expires 0 is never.
	Announce(addr netip.Addr, link int, expires time.Duration) error
	// Renew gives an entry a new expiry, and returns false if it isn't there.
	Renew(addr netip.Addr, link int, expires time.Duration) (bool, error)
	Withdraw(addr netip.Addr, link int) error
	// Claim tells the network, at once and repeatedly, that the address is here.
	Claim(addr netip.Addr, link int)
	// Probe asks the network for the address; Probed is told the result.
	Probe(addr netip.Addr, link int)
}

// Phase is where this node is with an address.
type Phase uint8

// The phases.
const (
	Idle Phase = iota
	Probing
	Claiming // it has been claimed, and will be answered for in a moment
	Holding
)

// String returns "idle", "probing", "claiming" or "holding".
func (p Phase) String() string { return [...]string{"idle", "probing", "claiming", "holding"}[p] }

// record is an address as this node has it.
type record struct {
	addr    netip.Addr
	link    int
	phase   Phase
	epoch   uint64
	seen    uint64 // the highest epoch heard of
	offered string
	since   time.Time // of the phase
	why     string

	holder   string    // the peer that has it, as last known
	released bool      // by that peer, in so many words
	orphan   time.Time // since when nobody has it
	cleared  time.Time // when the kernel's entry was last found gone
	renewed  time.Time
	forever  bool // the entry doesn't expire
	defended time.Time
	probed   time.Time // when a probe last ended, unanswered by a stranger
	foreign  time.Time // when a stranger last answered
	stranger [6]byte
}

// Machine is the state of all addresses on this node. It isn't safe for
// concurrent use. Make one with New.
type Machine struct {
	self    string
	kernel  Kernel
	expiry  time.Duration
	records map[netip.Addr]*record
	reached map[reach]contact
	settled bool
	awoke   bool         // in this step
	anew    map[int]bool // the NICs on which all is told anew in this step
	next    time.Time    // when there is something to do unasked
}

// reach is a peer's kernel that can hear us on a NIC.
type reach struct {
	peer string
	link int
}

// contact is how it is known there who has what.
type contact struct {
	since time.Time
	told  bool // by its agent's beats, or by claims
}

// New returns a machine that holds what an earlier life of the agent left in the
// kernel: that goes on being answered for, and is told to nobody anew.
func New(self string, expiry time.Duration, kernel Kernel, entries map[netip.Addr]int, now time.Time) *Machine {
	m := &Machine{self: self, kernel: kernel, expiry: expiry, records: map[netip.Addr]*record{}, reached: map[reach]contact{}}
	for addr, link := range entries {
		m.records[addr] = &record{addr: addr, link: link, phase: Holding, since: now, why: "held since before the agent's start"}
	}
	return m
}

// renewEvery is how often the kernel's entries get a new expiry: three times
// until they would expire.
func (m *Machine) renewEvery() time.Duration { return min(renewMost, m.expiry/3) }

// Situation is what a step is judged by.
type Situation struct {
	Now     time.Time
	View    heartbeat.View
	Leaving bool
	// Wants are all addresses; nil, not empty: they aren't known yet.
	Wants []Want
	// Entries are the addresses that the kernel answers for now, by NIC.
	Entries map[netip.Addr]int
}

// Step does what the situation asks for, and returns when to look again.
func (m *Machine) Step(s Situation) (next time.Time, err error) {
	m.next = s.Now.Add(look)
	if s.Wants == nil {
		s.Wants = m.blind()
	}
	m.again(s)
	var errs []error
	wanted, told := make(map[netip.Addr]bool, len(s.Wants)), told(s.View)
	for i := range s.Wants {
		w := &s.Wants[i]
		wanted[w.Addr] = true
		r := m.records[w.Addr]
		if r == nil {
			r = &record{addr: w.Addr, since: s.Now}
			m.records[w.Addr] = r
		}
		st := step{Machine: m, s: &s, r: r, w: w, told: told}
		errs = append(errs, st.do())
	}
	for addr, r := range m.records {
		if !wanted[addr] {
			errs = append(errs, m.drop(r, s.Now, "no longer wanted"))
			delete(m.records, addr)
		}
	}
	for addr, link := range s.Entries {
		if r := m.records[addr]; r == nil || r.phase != Holding || r.link != link {
			errs = append(errs, m.kernel.Withdraw(addr, link))
		}
	}
	return m.next, errors.Join(errs...)
}

// again finds the NICs on which all that is held has to be told anew, as a kernel
// can be reached there that couldn't before: it may still answer for what moved
// meanwhile. A peer whose agent speaks, or does so within its manners, is told by
// the beats who has what: two that claimed as a cut heals would end each other's
// answering. Who stood still knows of no agent until it has told what it holds: one
// that doesn't may have died with what was taken over. All is told anew, too, once
// this process has begun to listen, or has done so again.
func (m *Machine) again(s Situation) {
	if m.settled && !s.View.Settled {
		m.reached = nil
	}
	now := make(map[reach]contact)
	m.awoke = s.View.Settled && !m.settled
	m.settled = s.View.Settled
	m.anew = map[int]bool{}
	for _, p := range s.View.Peers {
		speaks, patience, links := p.Agent, manners, slices.Concat(p.Links, p.Answers)
		if !s.View.Settled {
			speaks, patience, links = p.Agent && p.Known, 2*manners, p.Answers
		}
		for _, link := range links {
			at := reach{p.Name, link}
			c, known := m.reached[at]
			if !known {
				c.since = s.Now
			}
			if due := c.since.Add(patience); !c.told && !speaks && s.Now.Before(due) {
				m.wake(due)
			} else if !c.told {
				c.told = true
				m.anew[link] = m.anew[link] || !speaks
			}
			now[at] = c
		}
	}
	m.reached = now
}

// blind wants what is held, and no more.
func (m *Machine) blind() []Want {
	wants := []Want{}
	for _, r := range m.records {
		wants = append(wants, Want{Addr: r.addr, Link: r.link, Blind: true})
	}
	return wants
}

// Held is what to tell the others.
func (m *Machine) Held() []heartbeat.Held {
	var held []heartbeat.Held
	for _, r := range m.records {
		if r.phase >= Claiming {
			held = append(held, heartbeat.Held{Addr: r.addr, Epoch: r.epoch, Offered: r.offered})
		}
	}
	slices.SortFunc(held, func(a, b heartbeat.Held) int { return a.Addr.Compare(b.Addr) })
	return held
}

// Probed takes in what a probe found: the MAC of a stranger, or zero.
func (m *Machine) Probed(addr netip.Addr, stranger [6]byte, now time.Time) {
	r := m.records[addr]
	if r == nil || r.phase != Probing {
		return
	}
	r.phase, r.since = Idle, now
	if stranger != ([6]byte{}) {
		r.foreign, r.stranger = now, stranger
		return
	}
	r.probed, r.stranger = now, stranger
}

// drop ends the answering for an address.
func (m *Machine) drop(r *record, now time.Time, why string) error {
	if r.phase == Idle {
		r.why = why
		return nil
	}
	held := r.phase >= Claiming
	r.phase, r.since, r.offered, r.why = Idle, now, "", why
	if !held {
		return nil
	}
	r.orphan, r.released, r.holder = time.Time{}, false, ""
	return m.kernel.Withdraw(r.addr, r.link)
}

// wake has the next step be made at a time, or before.
func (m *Machine) wake(at time.Time) {
	if at.Before(m.next) {
		m.next = at
	}
}

// Address is an address as it is shown.
type Address struct {
	Addr     netip.Addr
	Phase    Phase
	Link     int
	Epoch    uint64
	Offered  string
	Holder   string // this node or the peer that has it, as far as is known
	Since    time.Time
	Why      string
	Stranger [6]byte // who uses the address, if a stranger does
}

// Addresses lists what the machine knows, by address.
func (m *Machine) Addresses() []Address {
	list := make([]Address, 0, len(m.records))
	for _, r := range m.records {
		a := Address{Addr: r.addr, Phase: r.phase, Link: r.link, Epoch: max(r.epoch, r.seen), Offered: r.offered, Holder: r.holder, Since: r.since, Why: r.why, Stranger: r.stranger}
		if r.phase == Holding {
			a.Holder = m.self
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Address) int { return cmp.Or(a.Addr.Compare(b.Addr)) })
	return list
}
