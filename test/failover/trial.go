// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

const (
	// patience is how long a move may take at all.
	patience = 8 * time.Second
	// homecoming is how long a node that is well again may take to have its
	// addresses back.
	homecoming = 60 * time.Second
	// aftermath is how long the clients go on after all has moved.
	aftermath = time.Second
)

// Trial is what one fault did.
type Trial struct {
	Fault Fault
	Node  string
	// Moved is when another node first answered, counted from the fault; 0 if none had to.
	Moved time.Duration
	// Away is what the clients saw of the fault, Back what they saw of its end.
	Away, Back []Outage
	Doubles    []Double
	// Wrong is what wasn't as it had to be but for lost requests.
	Wrong   []string
	History string
}

// Try has a fault befall the i-th node under load on its Service, and ends it
// again. With home, it waits until the node has its addresses back.
func (l *Lab) Try(f Fault, i int, home bool) Trial {
	l.tb.Helper()
	m, s := l.machines[i], l.Services[i]
	l.waitHome(i, homecoming)
	load := l.StartLoad(s)
	t := Trial{Fault: f, Node: m.Name}
	begin := Now()
	heal := f.Inject(l, m)
	t.await(l, i, begin)
	time.Sleep(aftermath)
	heal()
	mark := Now()
	if home {
		l.waitHome(i, homecoming)
	}
	time.Sleep(aftermath)
	end := Now()
	load.Stop()
	t.Away, t.Back = load.Outages(begin-100*time.Millisecond, mark), load.Outages(mark, end)
	t.Doubles = l.Doubles(begin, end)
	for _, addr := range s.Addrs() {
		t.History += l.History(addr, begin, end)
		if moves := l.Moves(addr, begin, end); f.Stays && len(moves) > 1 {
			t.Wrong = append(t.Wrong, fmt.Sprintf("%s moved: %s", addr, strings.Join(moves, ", then ")))
		}
	}
	return t
}

// await waits until the addresses have moved, if they have to, and notes when.
func (t *Trial) await(l *Lab, i int, begin time.Duration) {
	moves := !t.Fault.Stays && len(l.machines) > 1
	err := netlab.Poll(patience, func() error {
		for _, addr := range l.Services[i].Addrs() {
			if by := l.Observer.Answering(addr); l.machine(by) == nil || moves == (by == t.Node) {
				return fmt.Errorf("%s is answered by %s", addr, by)
			}
		}
		return nil
	})
	if err != nil {
		t.Wrong = append(t.Wrong, err.Error())
	}
	if moves {
		t.Moved = Now() - begin
	}
}

// waitHome waits until a Service's addresses are with their node.
func (l *Lab) waitHome(i int, patience time.Duration) {
	l.tb.Helper()
	netlab.WaitFor(l.tb, patience, "the addresses of "+l.machines[i].Name, func() error {
		for _, addr := range l.Services[i].Addrs() {
			if by := l.Observer.Answering(addr); by != l.machines[i].Name {
				return fmt.Errorf("%s is answered by %s", addr, by)
			}
		}
		return nil
	})
}

// machine returns the node of that name, or nil.
func (l *Lab) machine(name string) *Machine {
	if i := slices.IndexFunc(l.machines, func(m *Machine) bool { return m.Name == name }); i >= 0 {
		return l.machines[i]
	}
	return nil
}

// Longest returns the longest outage of a fault or of its end, and how many requests it cost.
func Longest(outages []Outage) (span time.Duration, lost int) {
	for _, o := range outages {
		span, lost = max(span, o.Span), lost+o.Lost
	}
	return span, lost
}

// Complaints are what wasn't as it is promised of the fault. Measured targets are
// judged with the given slack.
func (t Trial) Complaints(slack time.Duration) []string {
	out := slices.Clone(t.Wrong)
	for _, d := range t.Doubles {
		out = append(out, d.String())
		if len(out) > 5 {
			break
		}
	}
	for _, o := range t.Away {
		if o.Lost > 0 && (t.Fault.Lossless || o.Span > t.Fault.Within+slack) {
			out = append(out, o.String())
		}
	}
	for _, o := range t.Back {
		if o.Lost > 0 {
			out = append(out, "when it was over, "+o.String())
		}
	}
	return out
}

// String is the trial's report.
func (t Trial) String() string {
	span, lost := Longest(t.Away)
	back, lostBack := Longest(t.Back)
	return fmt.Sprintf("%s, %s: moved after %v; lost %d over %v; at its end %d over %v", t.Fault.Name, t.Node,
		t.Moved.Round(time.Millisecond), lost, span.Round(time.Millisecond), lostBack, back.Round(time.Millisecond))
}
