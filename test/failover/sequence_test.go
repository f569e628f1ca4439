// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// recovery is how long it may take after a sequence until every address is
// answered by one node.
const recovery = 15 * time.Second

// Step is one fault of a sequence.
type Step struct {
	Wait time.Duration // before it
	What string
	do   func(l *Lab)
}

// Sequence is faults that come at random, one upon the other.
type Sequence struct {
	Seed  uint64
	Steps []Step
}

// NewSequence makes the sequence of a seed for so many nodes.
func NewSequence(seed uint64, nodes int) Sequence {
	r := rand.New(rand.NewPCG(seed, 0))
	s := Sequence{Seed: seed}
	for range 4 + r.IntN(5) {
		step := randomStep(r, nodes)
		step.Wait = time.Duration(r.IntN(300)) * time.Millisecond
		if r.IntN(2) == 0 { // long enough for a move
			step.Wait += time.Duration(r.IntN(1500)) * time.Millisecond
		}
		s.Steps = append(s.Steps, step)
	}
	return s
}

// randomStep is one of the faults, or the end of some.
func randomStep(r *rand.Rand, nodes int) Step {
	i, some := r.IntN(nodes), 1+r.IntN(1<<nodes-1) // who is on the other side of a cut
	name, others := fmt.Sprintf("node-%c", 'a'+i), sides(some, nodes)
	at := func(what string, f func(l *Lab, m *Machine)) Step {
		return Step{What: name + " " + what, do: func(l *Lab) { f(l, l.machines[i]) }}
	}
	changed := func(what string, f func(m *Machine)) Step {
		return at(what, func(l *Lab, m *Machine) { l.change(func() { f(m) }) })
	}
	all := func(what string, f func(m *Machine, side int)) Step {
		return Step{What: what, do: func(l *Lab) {
			l.change(func() {
				for i, m := range l.machines {
					f(m, some>>i&1)
				}
			})
		}}
	}
	steps := []Step{
		all("external switch cut from "+others, func(m *Machine, side int) { m.outside = side }),
		all("internal switch cut from "+others, func(m *Machine, side int) { m.inside = side }),
		all("both switches cut from "+others, func(m *Machine, side int) { m.inside, m.outside = side, side }),
		all("external switch healed", func(m *Machine, _ int) { m.outside = 0 }),
		all("internal switch healed", func(m *Machine, _ int) { m.inside = 0 }),
		all("both switches healed", func(m *Machine, _ int) { m.inside, m.outside = 0, 0 }),
		changed("loses carrier", func(m *Machine) { m.noCarrier = true }),
		changed("has carrier", func(m *Machine) { m.noCarrier = false }),
		changed("stands still", func(m *Machine) { m.stopped = true }),
		changed("goes on", func(m *Machine) { m.stopped = false }),
		at("agent stopped", func(_ *Lab, m *Machine) { m.silence(func() { _ = m.Agent().Signal(syscall.SIGSTOP) }) }),
		at("agent continued", func(_ *Lab, m *Machine) { m.continueAgent() }),
		at("agent killed", func(_ *Lab, m *Machine) { m.silence(m.kill) }),
		at("agent killed and started", func(_ *Lab, m *Machine) { m.ifOthersTell(func() { m.kill(); m.revive() }) }),
		at("agent started", func(_ *Lab, m *Machine) { m.revive() }),
	}
	return steps[r.IntN(len(steps))]
}

// sides names the nodes on the other side of a cut.
func sides(some, nodes int) string {
	var names []string
	for i := range nodes {
		if some>>i&1 == 1 {
			names = append(names, fmt.Sprintf("node-%c", 'a'+i))
		}
	}
	return join(names)
}

// ifOthersTell does what silences the agent, for a moment at least, unless another
// node's is silent: of two kernels that answer without an agent nobody tells one, until
// an agent that reaches both comes back. That is the limit of what is promised.
func (m *Machine) ifOthersTell(f func()) {
	for _, other := range m.lab.machines {
		if other != m && (other.silent || !other.tells()) {
			return
		}
	}
	f()
}

// silence stops or ends the agent for the rest of the sequence.
func (m *Machine) silence(f func()) {
	m.ifOthersTell(func() { m.silent = true; f() })
}

// listening is how long an agent that has started claims nothing.
const listening = 600 * time.Millisecond

// tells tells whether the agent that was started last has listened to the others,
// whom it knows when it says that all is in force.
func (m *Machine) tells() bool {
	for line := range strings.Lines(m.log()[m.logged:]) {
		if at, _, ok := strings.Cut(strings.TrimPrefix(line, "time="), " "); ok && strings.Contains(line, "objects are in force") {
			since, err := time.Parse(time.RFC3339Nano, at)
			return err == nil && time.Since(since) >= listening
		}
	}
	return false
}

// log is what the node's agents have logged.
func (m *Machine) log() string {
	text, _ := os.ReadFile(filepath.Join(m.lab.Logs(), m.Name+".log"))
	return string(text)
}

// kill ends the agent, unless its machine stands still.
func (m *Machine) kill() {
	if !m.frozen {
		m.KillAgent(syscall.SIGKILL)
	}
}

// revive starts the agent if it has ended and its machine doesn't stand still.
func (m *Machine) revive() {
	select {
	case <-m.Agent().Done():
		if !m.frozen {
			m.logged = len(m.log())
			m.StartAgent()
		}
	default:
	}
}

// Play plays a sequence, heals everything, waits until every address is answered
// by one node, and returns what was wrong.
func (l *Lab) Play(s Sequence) (wrong []string) {
	l.tb.Helper()
	begin := Now()
	var story strings.Builder
	for _, step := range s.Steps {
		time.Sleep(step.Wait)
		fmt.Fprintf(&story, "%8.3f s  %s\n", (Now() - begin).Seconds(), step.What)
		step.do(l)
	}
	fmt.Fprintf(&story, "%8.3f s  all healed\n", (Now() - begin).Seconds())
	l.heal()
	err := netlab.Poll(recovery, func() error {
		for _, addr := range l.Observer.addrs {
			if by := l.Observer.Answering(addr); l.machine(by) == nil {
				return fmt.Errorf("%s is answered by %s", addr, by)
			}
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, fmt.Sprintf("%v after all was well again, %v", recovery, err))
		for _, addr := range l.Observer.addrs {
			if l.machine(l.Observer.Answering(addr)) == nil {
				wrong = append(wrong, l.History(addr, begin, Now()))
			}
		}
	}
	wrong = append(wrong, l.complain(begin, Now())...)
	if len(wrong) > 0 {
		wrong = append([]string{story.String()}, wrong...)
	}
	return wrong
}

// complain tells of each address for which two nodes answered.
func (l *Lab) complain(begin, end time.Duration) (wrong []string) {
	doubles := l.Doubles(begin, end)
	for _, addr := range l.Observer.addrs {
		var first, last *Double
		for i := range doubles {
			if doubles[i].Addr != addr {
				continue
			}
			if first == nil {
				first = &doubles[i]
			}
			last = &doubles[i]
		}
		if first != nil {
			wrong = append(wrong, fmt.Sprintf("at %.3f s %v; the last %.3f s later; all of it:\n%s", (first.At-begin).Seconds(), *first,
				(last.At-first.At).Seconds(), l.History(addr, begin, end)))
		}
	}
	return wrong
}

// heal ends all faults.
func (l *Lab) heal() {
	l.change(func() {
		for _, m := range l.machines {
			m.inside, m.outside, m.noCarrier, m.stopped = 0, 0, false, false
		}
	})
	for _, m := range l.machines {
		m.continueAgent()
		m.revive()
		m.silent = false
	}
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestNeverTwo plays random sequences of faults: PB_FAULTS of them, 4 unless
// told otherwise, beginning with seed PB_SEED, on NODES nodes. While switches are cut, processes
// stopped and all of it healed, never two nodes answer for one address but for
// 200 ms from the first moment that both can reach the clients.
func TestNeverTwo(t *testing.T) {
	isolated(t, func(t *testing.T) {
		count, seed, nodes := number(t, "PB_FAULTS", 4), number(t, "PB_SEED", int(time.Now().Unix())), number(t, "NODES", 3)
		l := raise(t, nodes)
		bad := 0
		for i := range count {
			s := NewSequence(uint64(seed+i), nodes)
			if wrong := l.Play(s); len(wrong) > 0 {
				bad++
				t.Errorf("PB_SEED=%d: %s", s.Seed, strings.Join(wrong, "\n"))
			}
		}
		t.Logf("%d sequences from seed %d, %d wrong, %d questions asked", count, seed, bad, len(l.Observer.questions))
	})
}

func TestSequenceIsOfItsSeed(t *testing.T) {
	for seed := range uint64(100) {
		a, b := NewSequence(seed, 3), NewSequence(seed, 3)
		for i := range a.Steps {
			if a.Steps[i].What != b.Steps[i].What || a.Steps[i].Wait != b.Steps[i].Wait {
				t.Fatalf("seed %d, step %d: got %+v and %+v", seed, i, a.Steps[i], b.Steps[i])
			}
		}
	}
}
