// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// A claim is told again after these times: five times in five seconds, as
// switches forget slowly and RFC 5227 asks for no more than one in a second;
// and later, for who missed all that.
func repeats() []time.Duration {
	return []time.Duration{
		1100 * time.Millisecond, 2200 * time.Millisecond, 3300 * time.Millisecond, 4400 * time.Millisecond,
		30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute,
	}
}

// Claim is an address that this node answers for on a NIC.
type Claim struct {
	Addr netip.Addr
	Link int // index of the NIC
}

// Sender tells the network of claims. Make one with NewSender.
type Sender struct {
	log  *slog.Logger
	send func(link int, frames [][]byte) error
	mac  func(link int) [6]byte
	may  func([]Claim) []Claim
	wake chan struct{}

	mu     sync.Mutex
	claims map[netip.Addr]*claim
}

type claim struct {
	Claim
	begun time.Time
	told  int // of the repeats
}

// NewSender returns a sender. Claims name the MAC that the NIC has when they are
// told, zero: it isn't known yet. Of those that are repeated only what may leaves
// at that moment is told: this process may have been asleep, and the address
// elsewhere.
func NewSender(send func(link int, frames [][]byte) error, mac func(link int) [6]byte, may func([]Claim) []Claim, log *slog.Logger) *Sender {
	return &Sender{log: log, send: send, mac: mac, may: may, wake: make(chan struct{}, 1), claims: make(map[netip.Addr]*claim)}
}

// Claim tells the network at once, and begins the repeats.
func (s *Sender) Claim(c Claim) {
	s.mu.Lock()
	s.claims[c.Addr] = &claim{Claim: c, begun: time.Now()}
	s.mu.Unlock()
	s.tell(c)
	s.poke()
}

func (s *Sender) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Drop ends the repeats for an address.
func (s *Sender) Drop(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, addr)
}

func (s *Sender) tell(claims ...Claim) {
	byLink := make(map[int][][]byte)
	for _, c := range claims {
		mac := s.mac(c.Link)
		if mac == ([6]byte{}) {
			s.later(c)
			continue
		}
		byLink[c.Link] = append(byLink[c.Link], frame.Announcements(c.Addr, mac)...)
	}
	for _, link := range slices.Sorted(maps.Keys(byLink)) {
		if err := s.send(link, byLink[link]); err != nil {
			s.log.Warn("announce", "err", err)
		}
	}
}

// soon is when a claim is tried again that couldn't be told for want of a MAC.
const soon = 100 * time.Millisecond

// later begins a claim anew: the first repeat is soon, and tells it first.
func (s *Sender) later(c Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.claims[c.Addr]; left != nil && left.Claim == c {
		left.begun, left.told = time.Now().Add(soon-repeats()[0]), 0
		s.poke()
	}
}

// Run repeats claims until ctx ends. It sleeps while there is nothing to tell.
func (s *Sender) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		due, next := s.due(time.Now())
		if len(due) > 0 {
			s.tell(s.may(due)...)
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// due returns what is to be told now, and when there is more. What was missed
// is told once.
func (s *Sender) due(now time.Time) (due []Claim, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	times := repeats()
	for _, c := range s.claims {
		for late := false; c.told < len(times); c.told++ {
			if at := c.begun.Add(times[c.told]); at.After(now) {
				if next.IsZero() || at.Before(next) {
					next = at
				}
				break
			}
			if !late {
				due = append(due, c.Claim)
			}
			late = true
		}
	}
	return due, next
}
