// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// step judges one address.
type step struct {
	*Machine
	s    *Situation
	r    *record
	w    *Want
	told map[netip.Addr][]rival // what the peers said they have
}

// rival is a peer that answers for the address, as far as is known.
type rival struct {
	heartbeat.Held
	heartbeat.Peer
}

// told is what the peers said they have, by address.
func told(v heartbeat.View) map[netip.Addr][]rival {
	all := map[netip.Addr][]rival{}
	for _, p := range v.Peers {
		for _, h := range p.State.Held {
			all[h.Addr] = append(all[h.Addr], rival{h, p})
		}
	}
	return all
}

func (t *step) do() error {
	rivals := t.rivals()
	for _, o := range rivals {
		t.r.seen = max(t.r.seen, o.Epoch)
	}
	switch t.r.phase {
	case Holding:
		return t.hold(rivals)
	case Claiming:
		return t.finish(rivals)
	}
	return t.wait(rivals)
}

// rivals are the peers that count as holders: those that say so, and those
// whose agents are gone for a moment while their kernels go on.
func (t *step) rivals() []rival {
	var list []rival
	for _, o := range t.told[t.w.Addr] {
		if t.counts(o.Peer) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b rival) int { return -t.compare(a.Epoch, a.Name, b.Epoch, b.Name) })
	return list
}

// counts tells whether what a peer said last still holds.
func (t *step) counts(p heartbeat.Peer) bool {
	gone := t.s.Now.Sub(p.Gone)
	switch {
	case p.Agent:
		return true
	case p.State.Leaving:
		return false
	case p.Node == heartbeat.Unknown && gone < 2*heartbeat.Silence:
		t.wake(t.s.Now.Add(heartbeat.Interval))
		return true // being asked
	case slices.Contains(p.Answers, t.w.Link) && gone < Grace:
		t.wake(p.Gone.Add(Grace))
		return true
	}
	return false
}

// compare tells which of two holders keeps the address: the later one, and of
// two that took it at a time the one that the hash would choose.
func (t *step) compare(epoch uint64, node string, otherEpoch uint64, other string) int {
	switch {
	case epoch > otherEpoch:
		return 1
	case epoch < otherEpoch:
		return -1
	case announce.Owner(t.w.Addr, []string{node, other}) == node:
		return 1
	}
	return -1
}

// hold is for an address that this node answers for.
func (t *step) hold(rivals []rival) error {
	r, w, now := t.r, t.w, t.s.Now
	if t.s.Entries[r.addr] != r.link {
		r.phase, r.since, r.offered, r.cleared, r.orphan = Idle, now, "", now, time.Time{}
		r.released, r.holder, r.why = false, "", t.lost()
		return t.wait(rivals)
	}
	for _, o := range rivals {
		if t.compare(o.Epoch, o.Name, r.epoch, t.self) > 0 {
			return t.drop(r, now, o.Name+" has taken it over")
		}
		if o.Agent && now.Sub(r.defended) >= heartbeat.Interval {
			r.defended = now
			t.kernel.Claim(r.addr, r.link)
		}
	}
	if (t.awoke || t.anew[r.link]) && r.defended != now {
		t.kernel.Claim(r.addr, r.link)
	}
	if w.Blind {
		return nil
	}
	if w.Link != r.link {
		err := t.drop(r, now, "no NIC here that it could be answered on")
		if w.Link != 0 && err == nil {
			return t.take("moved to another NIC")
		}
		return err
	}
	t.offer()
	return t.renew()
}

// offer names the node that shall take over, if one shall and can.
func (t *step) offer() {
	r, w := t.r, t.w
	r.offered = ""
	if w.Best != t.self && !t.s.Leaving {
		r.offered = w.Best
	}
	if t.s.Leaving {
		if i := slices.IndexFunc(w.Order, func(n string) bool { return n != t.self }); i >= 0 {
			r.offered = w.Order[i]
		}
	}
	if p, ok := t.s.View.Peers[r.offered]; !ok || !p.Agent || p.Doubtful || !p.Known || p.State.Leaving {
		r.offered = ""
	}
}

// renew gives the entry a new expiry. It never expires while no other node could
// take over: and one that a claim has ended stays ended.
func (t *step) renew() error {
	r, now := t.r, t.s.Now
	forever := !slices.ContainsFunc(t.w.Order, func(n string) bool { return n != t.self })
	if !t.s.View.Settled {
		return nil // the heartbeat says when it is
	}
	if forever == r.forever && now.Sub(r.renewed) < t.renewEvery() {
		t.wake(r.renewed.Add(t.renewEvery()))
		return nil
	}
	expires := t.expiry
	if forever {
		expires = 0
	}
	there, err := t.kernel.Renew(r.addr, r.link, expires)
	if err != nil {
		return err
	}
	if !there {
		r.phase, r.since, r.offered, r.cleared, r.why = Idle, now, "", now, t.lost()
		t.wake(now.Add(heartbeat.Interval))
		return nil
	}
	r.renewed, r.forever = now, forever
	return nil
}

// lost says why an entry is gone. One that wasn't renewed for as long as it
// lives, or that an earlier agent made, may have been ended by either.
func (t *step) lost() string {
	if t.r.forever || t.s.Now.Sub(t.r.renewed) < t.expiry {
		return "another node claimed it"
	}
	return "its entry expired, or another node claimed it"
}

// wait is for an address that this node doesn't answer for.
func (t *step) wait(rivals []rival) error {
	r, w, now := t.r, t.w, t.s.Now
	if w.Blind {
		return nil
	}
	if len(rivals) > 0 {
		return t.watch(rivals[0])
	}
	if r.holder != "" {
		p := t.s.View.Peers[r.holder]
		r.released = p.Agent && p.Known
		r.holder = ""
	}
	if r.orphan.IsZero() {
		r.orphan = now
	}
	turnOf := slices.Index(w.Order, t.self)
	switch {
	case w.Link == 0 || turnOf < 0:
		r.why = "this node can't have it"
		return nil
	case !t.s.View.Settled:
		r.why = "listening first"
		t.wake(now.Add(heartbeat.Interval))
		return nil
	case t.unheard():
		t.wake(now.Add(heartbeat.Interval / 4))
		return nil
	case now.Sub(r.cleared) < heartbeat.Interval:
		t.wake(r.cleared.Add(heartbeat.Interval))
		return nil
	}
	if due := r.orphan.Add(time.Duration(turnOf) * turn); now.Before(due) {
		r.why = "left to " + w.Order[0]
		t.wake(due)
		return nil
	}
	if r.released {
		return t.take("its holder gave it up")
	}
	return t.probe("nobody has it")
}

// watch is for an address that a peer has: it is taken if it is offered, and
// asked for while beats of its holder are missing, so that no time is lost.
func (t *step) watch(o rival) error {
	r, w := t.r, t.w
	r.holder, r.released, r.orphan, r.stranger = o.Name, false, time.Time{}, [6]byte{}
	r.why = o.Name + " has it"
	able := w.Link != 0 && slices.Contains(w.Order, t.self) && t.s.View.Settled && !t.s.Leaving
	if !able {
		return nil
	}
	agreed := o.State.Leaving || w.Best == t.self || !slices.Contains(w.Order, o.Name)
	if o.Agent && o.Known && o.Offered == t.self && agreed {
		return t.take(o.Name + " handed it over")
	}
	next := slices.IndexFunc(w.Order, func(n string) bool { return n != o.Name })
	if (o.Doubtful || !o.Agent) && next >= 0 && w.Order[next] == t.self && t.s.Now.Sub(r.probed) >= time.Second {
		return t.ask()
	}
	return nil
}

// unheard tells whether an agent is alive of which it isn't known yet what it
// holds. One that never says it is not waited for long.
func (t *step) unheard() bool {
	for _, p := range t.s.View.Peers {
		if p.Agent && !p.Known && t.s.Now.Sub(p.Since) < 2*heartbeat.Silence {
			return true
		}
	}
	return false
}

// probe takes the address once a probe has found no stranger.
func (t *step) probe(why string) error {
	r, now := t.r, t.s.Now
	switch {
	case !r.foreign.IsZero() && now.Sub(r.foreign) < conflictRetry:
		r.why = fmt.Sprintf("a stranger at %x uses it", r.stranger)
		t.wake(r.foreign.Add(conflictRetry))
		return nil
	case now.Sub(r.probed) < time.Second:
		return t.take(why)
	case r.phase == Probing && r.seen > 0 && now.Sub(r.since) >= asking:
		return t.take(why) // a node had it, no stranger
	}
	return t.ask()
}

func (t *step) ask() error {
	lost := t.r.phase == Probing && t.s.Now.Sub(t.r.since) > 2*heartbeat.Silence // nobody brought the answer
	if (t.r.phase != Probing || lost) && t.s.Now.Sub(t.r.foreign) >= conflictRetry {
		t.r.phase, t.r.since, t.r.link = Probing, t.s.Now, t.w.Link
		t.kernel.Probe(t.r.addr, t.w.Link)
	}
	if due := t.r.since.Add(asking); t.r.phase == Probing && due.After(t.s.Now) {
		t.wake(due)
	}
	return nil
}

// take claims the address: whoever answers for it gives way first.
func (t *step) take(why string) error {
	r, now := t.r, t.s.Now
	r.epoch = max(r.seen, r.epoch) + 1
	r.phase, r.link, r.since, r.why = Claiming, t.w.Link, now, why
	r.offered, r.orphan, r.released, r.holder, r.foreign, r.stranger = "", time.Time{}, false, "", time.Time{}, [6]byte{}
	t.kernel.Claim(r.addr, r.link)
	t.wake(now.Add(yielding))
	return nil
}

// finish has a claimed address answered for, unless somebody else did the same.
func (t *step) finish(rivals []rival) error {
	r, now := t.r, t.s.Now
	for _, o := range rivals {
		if t.compare(o.Epoch, o.Name, r.epoch, t.self) > 0 {
			return t.drop(r, now, o.Name+" has taken it over")
		}
	}
	switch {
	case !t.w.Blind && t.w.Link != r.link:
		return t.drop(r, now, "no NIC here that it could be answered on")
	case now.Sub(r.since) < yielding:
		t.wake(r.since.Add(yielding))
		return nil
	case !t.s.View.Settled || now.Sub(r.since) > heartbeat.Silence:
		return t.drop(r, now, "this process stood still")
	}
	r.forever = !slices.ContainsFunc(t.w.Order, func(n string) bool { return n != t.self })
	expires := t.expiry
	if r.forever {
		expires = 0
	}
	if err := t.kernel.Announce(r.addr, r.link, expires); err != nil {
		return err
	}
	r.phase, r.since, r.renewed = Holding, now, now
	t.s.Entries[r.addr] = r.link
	return nil
}
