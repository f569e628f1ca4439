// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
)

// A claim is told burstCount times, burstInterval apart: switches forget
// slowly, and RFC 5227 asks for no more than one in a second.
const (
	burstCount    = 5
	burstInterval = 1100 * time.Millisecond
)

// Claim is an address that this node answers for on a NIC.
type Claim struct {
	Addr netip.Addr
	Link int // index of the NIC
	MAC  [6]byte
}

// Sender tells the network of new claims. Make one with NewSender.
type Sender struct {
	log  *slog.Logger
	send func(link int, frames [][]byte) error
	wake chan struct{}

	mu     sync.Mutex
	claims map[Claim]int // and how often each is still to be told
}

// NewSender returns a sender; nothing is sent before Run.
func NewSender(log *slog.Logger) *Sender {
	return &Sender{log: log, send: transmit, wake: make(chan struct{}, 1), claims: make(map[Claim]int)}
}

// Set replaces the claims. Those that weren't among the claims before are told
// in a burst, at once and repeated; the others stay as they are.
func (s *Sender) Set(claims []Claim) {
	s.mu.Lock()
	next := make(map[Claim]int, len(claims))
	for _, c := range claims {
		left, known := s.claims[c]
		if !known {
			left = burstCount
		}
		next[c] = left
	}
	s.claims = next
	s.mu.Unlock()
	s.signal()
}

// Again starts another burst for a claim, as when the network has to be told
// anew because another node had claimed the address meanwhile.
func (s *Sender) Again(addrs ...netip.Addr) {
	s.mu.Lock()
	for c := range s.claims {
		if slices.Contains(addrs, c.Addr) {
			s.claims[c] = burstCount
		}
	}
	s.mu.Unlock()
	s.signal()
}

func (s *Sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends. It sleeps while there is nothing to tell.
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
		if s.round() {
			timer.Reset(burstInterval)
		}
	}
}

// round tells each claim that is still to be told once, and returns whether
// there is more to come.
func (s *Sender) round() bool {
	due, more := s.due()
	byLink := make(map[int][][]byte)
	for _, c := range due {
		byLink[c.Link] = append(byLink[c.Link], frames(c.Addr, c.MAC)...)
	}
	for _, link := range slices.Sorted(maps.Keys(byLink)) {
		if err := s.send(link, byLink[link]); err != nil {
			s.log.Warn("announce", "err", err)
		}
	}
	return more
}

func (s *Sender) due() (due []Claim, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, left := range s.claims {
		if left > 0 {
			due = append(due, c)
			s.claims[c]--
			more = more || left > 1
		}
	}
	return due, more
}

// transmit sends frames out of a link.
func transmit(link int, frames [][]byte) error {
	nic, err := net.InterfaceByIndex(link)
	if err != nil {
		return fmt.Errorf("announce on link %d: %w", link, err)
	}
	conn, err := packet.Listen(nic, packet.Raw, 0, nil) // protocol 0: receives nothing
	if err != nil {
		return fmt.Errorf("announce on %s: %w", nic.Name, err)
	}
	var errs []error
	for _, f := range frames {
		if _, err := conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
			errs = append(errs, fmt.Errorf("announce on %s: %w", nic.Name, err))
		}
	}
	return errors.Join(append(errs, conn.Close())...)
}
