// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// Fault is something that befalls a node.
type Fault struct {
	Name string
	// Lossless: no request may be lost. Else Within is the target for the outage.
	Lossless bool
	Within   time.Duration
	// Peers: another node is needed for that.
	Peers bool
	// Stays: the addresses stay with their node.
	Stays bool

	Inject func(l *Lab, m *Machine) (heal func())
}

// Faults are the faults by themselves, as they are judged.
func Faults() []Fault {
	return []Fault{
		{Name: "agent restarted", Lossless: true, Stays: true, Inject: restart(1)},
		{Name: "agent restarted again and again", Lossless: true, Stays: true, Inject: restart(6)},
		{Name: "agent gone for good", Lossless: true, Inject: signal(syscall.SIGKILL)},
		{Name: "agent hangs", Lossless: true, Inject: hang},
		{Name: "SIGTERM", Lossless: true, Inject: signal(syscall.SIGTERM)},
		{Name: "drained", Lossless: true, Inject: drain},
		{Name: "carrier lost", Within: 300 * time.Millisecond, Peers: true, Inject: carrier},
		{Name: "frames lost silently", Within: 900 * time.Millisecond, Peers: true, Inject: silent},
		{Name: "cut off on all NICs", Within: 900 * time.Millisecond, Peers: true, Inject: cutOff},
		{Name: "stopped", Within: 900 * time.Millisecond, Peers: true, Inject: stopped},
	}
}

// restart kills the agent and starts it again at once, as its supervisor does.
func restart(times int) func(*Lab, *Machine) func() {
	return func(l *Lab, m *Machine) func() {
		for i := range times {
			time.Sleep(time.Duration(i) * 150 * time.Millisecond) // the agent lives longer each time
			m.KillAgent(syscall.SIGKILL)
			m.StartAgent()
		}
		return func() {}
	}
}

// signal ends the agent.
func signal(s syscall.Signal) func(*Lab, *Machine) func() {
	return func(l *Lab, m *Machine) func() {
		m.KillAgent(s)
		return m.StartAgent
	}
}

// KillAgent ends the agent with a signal, also a stopped one. One that doesn't end
// by it within 10 s is made to say in its log what it does.
func (m *Machine) KillAgent(s syscall.Signal) {
	_ = m.Agent().Signal(s)
	m.continueAgent()
	patience := time.After(10 * time.Second)
	for {
		select {
		case <-m.Agent().Done():
			return
		case <-patience:
			m.lab.tb.Logf("the agent of %s doesn't end by %v", m.Name, s)
			_ = m.Agent().Signal(syscall.SIGQUIT)
		case <-time.After(10 * time.Millisecond):
			m.continueAgent()
		}
	}
}

// continueAgent has a stopped agent go on, and nsenter, which waits for it and
// stops itself with it.
func (m *Machine) continueAgent() {
	pid := m.Agent().PID()
	_ = m.Agent().Signal(syscall.SIGCONT)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return // it has ended
	}
	for line := range strings.Lines(string(text)) {
		if parent, ok := strings.CutPrefix(line, "PPid:"); ok {
			if ppid, err := strconv.Atoi(strings.TrimSpace(parent)); err == nil && ppid > 1 && ppid != os.Getpid() {
				_ = syscall.Kill(ppid, syscall.SIGCONT)
			}
		}
	}
}

func hang(l *Lab, m *Machine) func() {
	_ = m.Agent().Signal(syscall.SIGSTOP)
	return m.continueAgent
}

func drain(l *Lab, m *Machine) func() {
	m.Exec(l.tb, l.Program("patchbayctl"), "nodes", "drain", m.Name)
	return func() { m.Exec(l.tb, l.Program("patchbayctl"), "nodes", "drain", "--off", m.Name) }
}

func carrier(l *Lab, m *Machine) func() {
	l.change(func() { m.noCarrier = true })
	return func() { l.change(func() { m.noCarrier = false }) }
}

func silent(l *Lab, m *Machine) func() {
	l.change(func() { m.outside = m.alone() })
	return func() { l.change(func() { m.outside = 0 }) }
}

func cutOff(l *Lab, m *Machine) func() {
	l.change(func() { m.inside, m.outside = m.alone(), m.alone() })
	return func() { l.change(func() { m.inside, m.outside = 0, 0 }) }
}

// stopped is a machine that stands still: nothing runs, nothing is answered.
func stopped(l *Lab, m *Machine) func() {
	l.change(func() { m.stopped = true })
	return func() { l.change(func() { m.stopped = false }) }
}

// alone is a group that only this machine is ever in.
func (m *Machine) alone() int { return 100 + slices.Index(m.lab.machines, m) }

// freeze stops all processes of a machine, or lets them go on.
func (l *Lab) freeze(m *Machine, on bool) {
	if m.frozen == on {
		return
	}
	m.frozen = on
	state := map[bool]string{false: "0", true: "1"}[on]
	if err := os.WriteFile(filepath.Join(m.Cgroup, "cgroup.freeze"), []byte(state), 0); err != nil {
		l.tb.Fatalf("freeze %s: %v", m.Name, err)
	}
	netlab.WaitFor(l.tb, 5*time.Second, "frozen "+state, func() error {
		text, err := os.ReadFile(filepath.Join(m.Cgroup, "cgroup.events"))
		if err == nil && !bytes.Contains(text, []byte("frozen "+state+"\n")) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
}

// span is when a machine's frames could reach the clients; it has no end yet if that is 0.
type span struct{ from, to time.Duration }

// change changes the state of machines and brings switches and processes in line
// with it: a machine's processes stop after its frames do, and go on before. It
// notes since and until when each machine's frames reach the clients' segment.
func (l *Lab) change(f func()) {
	l.tb.Helper()
	f()
	inside, outside := map[string]int{}, map[string]int{}
	for _, m := range l.machines {
		if !m.stopped {
			l.freeze(m, false)
		}
		inside[m.internal], outside[m.external] = m.inside, m.outside
		if m.stopped {
			inside[m.internal], outside[m.external] = m.alone(), m.alone()
		}
		l.setCarrier(m, !m.noCarrier)
	}
	if err := errors.Join(l.External.Group(outside), l.Internal.Group(inside)); err != nil {
		l.tb.Fatalf("change the switches: %v", err)
	}
	l.note(Now())
	for _, m := range l.machines {
		if m.stopped {
			l.freeze(m, true)
		}
	}
}

// setCarrier sets the external NIC's carrier, from the switch's side.
func (l *Lab) setCarrier(m *Machine, up bool) {
	if m.carrier == up {
		return
	}
	if m.carrier = up; up {
		l.External.Net.Up(l.tb, m.external)
	} else {
		l.External.Net.Down(l.tb, m.external)
	}
}

// note notes whose frames reach the clients from now on.
func (l *Lab) note(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.machines {
		last := len(m.reached) - 1
		reaches, open := m.carrier && l.External.Reaches(m.external), last >= 0 && m.reached[last].to == 0
		if open && !reaches {
			m.reached[last].to = now
		} else if !open && reaches {
			m.reached = append(m.reached, span{from: now})
		}
	}
}
