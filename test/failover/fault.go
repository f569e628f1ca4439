// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"os"
	"path/filepath"
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

// KillAgent ends the agent with a signal.
func (m *Machine) KillAgent(s syscall.Signal) {
	_ = m.Agent().Signal(s)
	_ = m.Agent().Signal(syscall.SIGCONT) // it may have been stopped
	_ = m.Agent().Wait()
}

func hang(l *Lab, m *Machine) func() {
	_ = m.Agent().Signal(syscall.SIGSTOP)
	return func() { _ = m.Agent().Signal(syscall.SIGCONT) }
}

func drain(l *Lab, m *Machine) func() {
	m.Exec(l.tb, l.Program("patchbayctl"), "nodes", "drain", m.Name)
	return func() { m.Exec(l.tb, l.Program("patchbayctl"), "nodes", "drain", "--off", m.Name) }
}

func carrier(l *Lab, m *Machine) func() {
	l.change(func() error { l.setCarrier(m, false); return nil })
	return func() { l.change(func() error { l.setCarrier(m, true); return nil }) }
}

func silent(l *Lab, m *Machine) func() {
	l.change(func() error { return l.External.Group(map[string]int{m.external: m.alone()}) })
	return func() { l.change(func() error { return l.External.Group(map[string]int{m.external: 0}) }) }
}

func cutOff(l *Lab, m *Machine) func() {
	l.isolate(m, m.alone())
	return func() { l.isolate(m, 0) }
}

// stopped is a machine that stands still: nothing runs, nothing is answered.
func stopped(l *Lab, m *Machine) func() {
	l.isolate(m, m.alone())
	l.freeze(m, true)
	return func() {
		l.freeze(m, false)
		l.isolate(m, 0)
	}
}

// alone is a group that only this machine is ever in.
func (m *Machine) alone() int { return 100 + int(m.mac[5])<<8 + int(m.mac[4]) }

// isolate puts both of a machine's ports into a group.
func (l *Lab) isolate(m *Machine, group int) {
	l.change(func() error {
		if err := l.Internal.Group(map[string]int{m.internal: group}); err != nil {
			return err
		}
		return l.External.Group(map[string]int{m.external: group})
	})
}

// setCarrier sets the external NIC's carrier, from the switch's side.
func (l *Lab) setCarrier(m *Machine, up bool) {
	m.noCarrier = !up
	if up {
		l.External.Net.Up(l.tb, m.external)
	} else {
		l.External.Net.Down(l.tb, m.external)
	}
}

// freeze stops all processes of a machine, or lets them go on.
func (l *Lab) freeze(m *Machine, on bool) {
	state := "0"
	if on {
		state = "1"
	}
	if err := os.WriteFile(filepath.Join(m.Cgroup, "cgroup.freeze"), []byte(state), 0); err != nil {
		l.tb.Fatalf("freeze %s: %v", m.Name, err)
	}
	netlab.WaitFor(l.tb, 5*time.Second, "frozen "+state, func() error {
		text, err := os.ReadFile(filepath.Join(m.Cgroup, "cgroup.events"))
		if err == nil && !containsLine(text, "frozen "+state) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
}

// span is when a machine's frames could reach the clients; it has no end yet if that is 0.
type span struct{ from, to time.Duration }

// change changes who reaches whom, and notes since and until when each machine's
// frames reach the clients' segment.
func (l *Lab) change(f func() error) {
	l.tb.Helper()
	if err := f(); err != nil {
		l.tb.Fatalf("change the switches: %v", err)
	}
	now := Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.machines {
		l.note(m, !m.noCarrier && l.External.Reaches(m.external), now)
	}
}

// note notes whether a machine's frames reach the clients from now on.
func (l *Lab) note(m *Machine, reaches bool, now time.Duration) {
	last := len(m.reached) - 1
	if open := last >= 0 && m.reached[last].to == 0; open && !reaches {
		m.reached[last].to = now
	} else if !open && reaches {
		m.reached = append(m.reached, span{from: now})
	}
}
