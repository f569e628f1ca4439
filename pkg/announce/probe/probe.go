// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// RFC 5227, 1.1, by its own names in comments.
const (
	probeWait    = time.Second      // PROBE_WAIT: up to that before the first
	probeCount   = 3                // PROBE_NUM
	probeMin     = time.Second      // PROBE_MIN between two
	probeMax     = 2 * time.Second  // PROBE_MAX
	announceWait = 2 * time.Second  // ANNOUNCE_WAIT after the last
	maxConflicts = 10               // MAX_CONFLICTS, after which
	rateLimit    = time.Minute      // RATE_LIMIT_INTERVAL passes before each search
	defendEvery  = 10 * time.Second // DEFEND_INTERVAL
)

// RFC 4862, 5.1 and RFC 4861, 10. One solicitation would do by the letter
// (DupAddrDetectTransmits); but a single lost frame must not make an address
// look free.
const (
	detectDelay = time.Second // MAX_RTR_SOLICITATION_DELAY: up to that before the first
	detectCount = 3
	detectTimer = time.Second // RETRANS_TIMER
)

// maxContests is how often a search begins anew because others search for the
// same address; then it is left to them.
const maxContests = 8

// maxSearches is how many searches have a socket at the same time: each frame
// on the NIC is shown to all of them.
const maxSearches = 64

// Target is what is searched for, and where.
type Target struct {
	Addr netip.Addr
	Link int // index of the NIC
	// Subnets of the NIC, by which a machine is recognised that answers for
	// everything.
	Subnets []netip.Prefix
	// Again tells that the address was in use when it was last searched for; it
	// doesn't count against the NIC's share of conflicts.
	Again bool
}

// Verdict is how a search ended.
type Verdict struct {
	Conflict bool
	MAC      [6]byte // who has the address
	Proxy    [6]byte // who answered for it, and for everything; zero if nobody did
	Contest  bool    // nobody has it, but another one keeps searching for it
}

// Prober searches for addresses. Its searches may run beside each other.
type Prober struct {
	// Ours tells the MACs of the cluster's own nodes, whose answers count for
	// nothing: one that has just lost an address may answer for a moment.
	Ours func(mac [6]byte) bool

	open   opener
	random func(time.Duration) time.Duration
	slots  chan struct{} // one for each search that is on

	mu        sync.Mutex
	conflicts map[int]int       // by NIC, since an address was last found free
	next      map[int]time.Time // when the NIC may search again
}

// New returns a prober. Ours may be nil.
func New(ours func(mac [6]byte) bool) *Prober {
	return &Prober{
		Ours: ours, open: openSocket, random: rand.N[time.Duration],
		slots: make(chan struct{}, maxSearches), conflicts: map[int]int{}, next: map[int]time.Time{},
	}
}

// Probe searches for other machines with an address in full: for 4 to 7 s, or 3
// to 4 s for IPv6, if nobody has it. An error means that it isn't known.
func (p *Prober) Probe(ctx context.Context, t Target) (Verdict, error) {
	if err := p.turn(ctx, t); err != nil {
		return Verdict{}, err
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return Verdict{}, ctx.Err()
	}
	w, err := p.open(t.Link, netip.PrefixFrom(t.Addr, t.Addr.BitLen()), t.Addr)
	if err != nil {
		return Verdict{}, err
	}
	defer w.Close()
	s := search{Prober: p, Target: t, wire: w, proxies: map[[6]byte]bool{}}
	v, err := s.run(ctx)
	if err != nil {
		return Verdict{}, fmt.Errorf("probe for %s: %w", t.Addr, err)
	}
	p.count(t, v)
	return v, nil
}

// turn waits until the NIC may search for another address.
func (p *Prober) turn(ctx context.Context, t Target) error {
	if t.Again {
		return nil
	}
	p.mu.Lock()
	wait := time.Until(p.next[t.Link])
	if p.conflicts[t.Link] >= maxConflicts {
		p.next[t.Link] = time.Now().Add(max(wait, 0) + rateLimit)
	}
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return pause(ctx, wait)
}

func (p *Prober) count(t Target, v Verdict) {
	if t.Again {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !v.Conflict {
		delete(p.conflicts, t.Link)
		delete(p.next, t.Link)
		return
	}
	if p.conflicts[t.Link]++; p.conflicts[t.Link] == maxConflicts {
		p.next[t.Link] = time.Now().Add(rateLimit)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// search is one search.
type search struct {
	*Prober
	Target
	wire
	proxies map[[6]byte]bool
	proxy   [6]byte
}

// heard is what was heard so far.
type heard struct {
	claim [6]byte // who has the address
	rival [6]byte // who searches for it as we do
}

func (h heard) nothing() bool { return h == heard{} }

// run probes, and begins anew when somebody else probes at the same time: both
// would find the address free. Whoever hears the other first waits, so that one
// of them comes through; it then answers for the address (see Watcher).
func (s *search) run(ctx context.Context) (Verdict, error) {
	var rival [6]byte
	for range maxContests {
		h, err := s.attempt(ctx)
		switch {
		case err != nil:
			return Verdict{}, err
		case h.nothing():
			return Verdict{Proxy: s.proxy}, nil
		case h.claim == [6]byte{}:
			rival = h.rival
			if h, err = s.stepBack(ctx); err != nil {
				return Verdict{}, err
			}
		}
		if h.claim != [6]byte{} {
			return Verdict{Conflict: true, MAC: h.claim}, nil
		}
	}
	return Verdict{Conflict: true, Contest: true, MAC: rival}, nil
}

// attempt is one search in full, until something is heard.
func (s *search) attempt(ctx context.Context) (heard, error) {
	is4, count, delay := s.Addr.Is4(), detectCount, detectDelay
	if is4 {
		count, delay = probeCount, probeWait
	}
	h, err := s.hear(ctx, s.random(delay))
	for i := 0; i < count && err == nil && h.nothing(); i++ {
		if err = s.Send(frame.Probe(s.Addr, s.MAC())); err != nil {
			break
		}
		wait := detectTimer
		switch {
		case is4 && i == count-1:
			wait = announceWait
		case is4:
			wait = probeMin + s.random(probeMax-probeMin)
		}
		h, err = s.hear(ctx, wait)
	}
	return h, err
}

// stepBack waits while somebody else searches, and a random time longer: that
// one has then found it free, and answers, or stepped back too.
func (s *search) stepBack(ctx context.Context) (heard, error) {
	for {
		h, err := s.hear(ctx, probeMax+announceWait+s.random(2*probeMax))
		if err != nil || h.nothing() || h.claim != [6]byte{} {
			return h, err
		}
	}
}

// hear listens until somebody claims or wants the address.
func (s *search) hear(ctx context.Context, d time.Duration) (h heard, err error) {
	until := time.Now().Add(d)
	for err == nil && h.nothing() && time.Until(until) > 0 {
		var suspect *frame.Sighting
		err = listen(ctx, s.wire, time.Until(until), func(seen frame.Sighting) bool {
			switch {
			case seen.Addr != s.Addr || seen.MAC == s.MAC() || s.proxies[seen.MAC] || s.Ours != nil && s.Ours(seen.MAC):
				return false
			case seen.Probe:
				h.rival = seen.MAC
			default:
				suspect = &seen
			}
			return true
		})
		if err == nil && suspect != nil {
			err = s.judge(ctx, *suspect, &h)
		}
	}
	return h, err
}

// judge tells a machine that has the address from one that answers for all.
func (s *search) judge(ctx context.Context, seen frame.Sighting, h *heard) error {
	if mayBeProxied(seen) {
		all, err := answersAll(ctx, s.open, s.Target, seen.MAC, s.random)
		if err != nil {
			return err
		}
		if all {
			s.proxies[seen.MAC], s.proxy = true, seen.MAC
			return nil
		}
	}
	h.claim = seen.MAC
	return nil
}
