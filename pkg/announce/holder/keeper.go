// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// Options are what a Keeper works with.
type Options struct {
	Node      string
	Heartbeat *heartbeat.Heartbeat
	Kernel    Kernel
	// Entries are the addresses that the kernel answers for now, by NIC.
	Entries func() (map[netip.Addr]int, error)
	// Plan tells what must be answered for, and by whom best. It returns nil
	// while the objects aren't known.
	Plan   func(map[string]Standing) []Want
	Expiry time.Duration // of the kernel's entries
	Log    *slog.Logger
	// Now is the clock, nil: time.Now; only its monotonic reading counts.
	Now func() time.Time
	// Moved is told what changed, with no lock held, if set.
	Moved func(Address)
	// Note is told what a step came to.
	Note func(error)
}

// Keeper keeps this node's addresses. Make one with NewKeeper.
type Keeper struct {
	Options
	wake chan struct{}

	mu        sync.Mutex
	machine   *Machine
	judge     *Standings
	standings map[string]Standing
	wants     []Want
	leaving   bool
	taken     int // so often an address came
	given     int // and went
}

// NewKeeper returns a keeper, which has told the heartbeat what an earlier life
// of the agent left in the kernel: nobody takes that for given up.
func NewKeeper(o Options) (*Keeper, error) {
	entries, err := o.Entries()
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &Keeper{Options: o, wake: make(chan struct{}, 1), judge: NewStandings(o.Node)}
	k.machine = New(o.Node, o.Expiry, o.Kernel, entries, o.Now())
	o.Heartbeat.SetHeld(k.machine.Held())
	return k, nil
}

// Wake has the keeper look anew: after a change of the heartbeat's view, of the
// plan, of a NIC.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run keeps the addresses until ctx ends. What is answered for then stays so.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		next, err := k.step()
		k.Note(err)
		timer.Reset(max(next.Sub(k.Now()), time.Millisecond))
	}
}

func (k *Keeper) step() (time.Time, error) {
	k.mu.Lock()
	entries, err := k.Entries()
	if err != nil {
		k.mu.Unlock()
		return k.Now().Add(look), err
	}
	before := phases(k.machine)
	view := k.Heartbeat.View()
	k.standings = k.judge.Judge(view, k.leaving)
	k.wants = k.Plan(k.standings)
	next, err := k.machine.Step(Situation{Now: k.Now(), View: view, Leaving: k.leaving, Wants: k.wants, Entries: entries})
	if due := k.judge.Next(); !due.IsZero() && due.Before(next) {
		next = due
	}
	held, after := k.machine.Held(), k.machine.Addresses()
	after = slices.DeleteFunc(after, func(a Address) bool { return (before[a.Addr] == Holding) == (a.Phase == Holding) })
	for _, a := range after {
		if a.Phase == Holding {
			k.taken++
		} else {
			k.given++
		}
	}
	k.mu.Unlock()
	k.Heartbeat.SetHeld(held) // tells only what differs
	for _, a := range after {
		k.moved(a)
	}
	return next, err
}

func (k *Keeper) moved(a Address) {
	k.Log.Info("address", "addr", a.Addr, "phase", a.Phase.String(), "epoch", a.Epoch, "why", a.Why)
	if k.Moved != nil {
		k.Moved(a)
	}
}

func phases(m *Machine) map[netip.Addr]Phase {
	out := make(map[netip.Addr]Phase, len(m.records))
	for addr, r := range m.records {
		out[addr] = r.phase
	}
	return out
}

// Probed takes in what a probe found: the MAC of a stranger, or zero.
func (k *Keeper) Probed(addr netip.Addr, stranger [6]byte) {
	k.mu.Lock()
	k.machine.Probed(addr, stranger, k.Now())
	k.mu.Unlock()
	k.Wake()
}

// SetLeaving has the others take this node's addresses over, or no longer.
func (k *Keeper) SetLeaving(leaving bool) {
	k.mu.Lock()
	k.leaving = leaving
	k.mu.Unlock()
	k.Heartbeat.SetLeaving(leaving)
	k.Wake()
}

// Addresses lists what is known of the addresses.
func (k *Keeper) Addresses() []Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machine.Addresses()
}

// Moves counts the addresses that came to this node, and those that went.
func (k *Keeper) Moves() (taken, given int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taken, k.given
}

// Standings tells how fit each node is, as judged last.
func (k *Keeper) Standings() map[string]Standing {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.standings
}

// May tells whether an address may be claimed now: this node holds it, and knows
// what it says.
func (k *Keeper) May(addr netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.machine.records[addr]
	return r != nil && r.phase >= Claiming && k.Heartbeat.Awake()
}

// Busy tells whether this node holds an address that another could take over.
func (k *Keeper) Busy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.wants {
		if r := k.machine.records[w.Addr]; r != nil && r.phase == Holding {
			for _, n := range w.Order {
				if n != k.Node {
					return true
				}
			}
		}
	}
	return false
}
