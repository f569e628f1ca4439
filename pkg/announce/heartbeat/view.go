// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"time"
)

// Life is what is known of a node itself, whatever its agent does.
type Life uint8

// A node is Alive when its agent or its kernel answers, Dead when neither does
// on any NIC, and Unknown while it has not been asked long enough.
const (
	Unknown Life = iota
	Alive
	Dead
)

// String returns "unknown", "alive" or "dead".
func (l Life) String() string { return [...]string{"unknown", "alive", "dead"}[l] }

// View is what is known of the other nodes at one moment.
type View struct {
	At    time.Time
	Peers map[string]Peer
	// Own is what this node tells of itself.
	Own State
	// Settled: beats could have been heard for long enough, since the start or
	// since the process last stood still, that silence means something.
	Settled bool
}

// Peer is another node.
type Peer struct {
	Name string
	// Agent: its agent is heard, on one NIC at least.
	Agent bool
	// Since tells from when it has been heard without a break.
	Since time.Time
	// Gone is since when its agent has not been heard; zero if it is.
	Gone time.Time
	// Doubtful: it is still counted as alive, but beats are missing.
	Doubtful bool
	// Node tells whether the node answers, whatever its agent does.
	Node Life
	// Links are our NICs, by index, on which the agent is heard.
	Links []int
	// Answers are our NICs on which the node's kernel answers, asked while the
	// agent isn't heard there.
	Answers []int
	// Missed are our NICs on which it should be heard, and isn't.
	Missed []int
	// Known: State is what it tells now, not what it told before its agent's start.
	Known bool
	State State
}

// doubt is the silence after which a node's kernel is asked.
const doubt = 3 * Interval

// fresh is how long an answer of a kernel counts, and freshRarely where it is
// asked once a second: until the next answer can be there.
const (
	fresh       = 4 * Interval
	freshRarely = 14 * Interval
)

// fresh is how long the last answer of the pair's kernel counts.
func (pr *pair) fresh() time.Duration {
	if pr.asked > rarely {
		return freshRarely
	}
	return fresh
}

// View returns what is known now.
func (h *Heartbeat) View() View {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.Now()
	v := View{At: now, Peers: make(map[string]Peer, len(h.peers)), Own: h.state, Settled: h.awake(now)}
	for name, p := range h.peers {
		v.Peers[name] = p.view(now)
	}
	return v
}

// Awake tells whether this process has run without a gap, and long enough: who
// was stopped must not tell others what was true before.
func (h *Heartbeat) Awake() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.awake(h.Now())
}

func (h *Heartbeat) awake(now time.Time) bool {
	return !h.ticked.IsZero() && !now.Before(h.settled) && now.Sub(h.ticked) <= stall
}

func (p *peer) view(now time.Time) Peer {
	v := Peer{Name: p.name, Agent: p.alive, Since: p.since, Known: p.known, State: p.state, Node: p.judge(now)}
	v.Doubtful = p.alive && now.Sub(p.heard) >= doubt
	if !p.alive {
		v.Gone = p.heard
		for _, pr := range p.pairs {
			if v.Gone.Before(pr.silent) && p.life == 0 {
				v.Gone = pr.silent
			}
		}
	}
	for _, pr := range p.sorted() {
		switch {
		case pr.alive:
			v.Links = append(v.Links, pr.link.Index)
		case pr.onLink && pr.quiet(now) >= Silence:
			v.Missed = append(v.Missed, pr.link.Index)
		}
		if now.Sub(pr.answered) < pr.fresh() {
			v.Answers = append(v.Answers, pr.link.Index)
		}
	}
	return v
}

// judge tells whether the node lives. One that can't be asked, as there is a
// router between, is dead when nothing was heard for long.
func (p *peer) judge(now time.Time) Life {
	if p.alive {
		return Alive
	}
	verdict := Unknown
	for _, pr := range p.pairs {
		switch {
		case now.Sub(pr.answered) < pr.fresh():
			return Alive
		case !pr.link.Carrier:
		case pr.onLink && pr.asked >= 3, !pr.onLink && pr.quiet(now) >= routedDead: // the third question wasn't waited for yet
			verdict = max(verdict, Dead)
		default:
			verdict = undecided
		}
	}
	if verdict == undecided {
		return Unknown
	}
	return verdict
}

// undecided is more than any verdict: a NIC that wasn't asked long enough.
const undecided = Dead + 1

// routedDead is the silence after which a node behind a router is dead.
const routedDead = 3 * time.Second
