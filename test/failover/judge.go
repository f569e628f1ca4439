// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// overlap is how long two nodes may answer for one address, from the first moment
// that both nodes' frames can reach the clients.
const overlap = 200 * time.Millisecond

// Double is a question that several nodes answered though they had had the time
// to agree.
type Double struct {
	Addr  netip.Addr
	At    time.Duration
	Nodes []string
	// Since is for how long both had been able to reach the clients.
	Since time.Duration
}

func (d Double) String() string {
	return fmt.Sprintf("%s answered by %s, %v after both could reach the clients", d.Addr, join(d.Nodes), d.Since.Round(time.Millisecond))
}

// Doubles returns the questions asked in a span of time that two nodes answered
// when they had to have agreed.
func (l *Lab) Doubles(from, to time.Duration) []Double {
	l.Observer.mu.Lock()
	defer l.Observer.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Double
	for _, q := range l.Observer.questions {
		if q.asked < from || q.asked >= to || len(q.by) < 2 {
			continue
		}
		var names []string
		since := time.Duration(-1)
		for _, mac := range q.by {
			names = append(names, l.owner(mac))
			i := slices.IndexFunc(l.machines, func(m *Machine) bool { return m.mac == mac })
			if i < 0 {
				since = overlap + 1 // nobody we know should answer
				continue
			}
			if for_ := reachedFor(l.machines[i].reached, q.asked); since < 0 || for_ < since {
				since = for_
			}
		}
		if since > overlap {
			out = append(out, Double{q.addr, q.asked, names, since})
		}
	}
	return out
}

// reachedFor returns for how long a machine's frames had reached the clients at
// that time; 0 if they didn't, or began to just then.
func reachedFor(spans []span, at time.Duration) time.Duration {
	for _, s := range spans {
		if at >= s.from && (s.to == 0 || at < s.to) {
			return at - s.from
		}
	}
	return 0
}

// answer is who answered a question.
type answer struct {
	at    time.Duration
	names []string
}

// answers lists who answered for an address in a span of time, by question.
func (l *Lab) answers(addr netip.Addr, from, to time.Duration) (list []answer) {
	l.Observer.mu.Lock()
	defer l.Observer.mu.Unlock()
	for _, q := range l.Observer.questions {
		if q.addr != addr || q.asked < from || q.asked >= to {
			continue
		}
		a := answer{at: q.asked}
		for _, mac := range q.by {
			a.names = append(a.names, l.owner(mac))
		}
		list = append(list, a)
	}
	return list
}

// History is who answered for an address in a span of time: a line for each
// change, with the claims between.
func (l *Lab) History(addr netip.Addr, from, to time.Duration) string {
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	last := "?"
	for _, a := range l.answers(addr, from, to) {
		if by := join(a.names); by != last {
			lines = append(lines, line{a.at, "answered by " + by})
			last = by
		}
	}
	for _, c := range l.Observer.Claims() {
		if c.Addr == addr && c.At >= from && c.At < to {
			lines = append(lines, line{c.At, "claimed by " + c.Node})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	var b strings.Builder
	for _, x := range lines {
		fmt.Fprintf(&b, "%8.3f s  %s  %s\n", (x.at - from).Seconds(), addr, x.text)
	}
	return b.String()
}

// Moves lists who answered for an address in a span of time, one after the other.
// A question that nobody answered doesn't count.
func (l *Lab) Moves(addr netip.Addr, from, to time.Duration) (names []string) {
	for _, a := range l.answers(addr, from, to) {
		names = append(names, a.names...)
	}
	return slices.Compact(names)
}

// join lists names; nobody is "nobody".
func join(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	slices.Sort(names)
	return strings.Join(names, " and ")
}
