// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// segment is a network for tests: what one sends the others hear, a moment
// later.
type segment struct {
	mu    sync.Mutex
	ears  map[*port]bool
	lost  func(n int) bool // frames that nobody hears
	sent  []sent
	began time.Time
}

type sent struct {
	frame.Sighting
	at time.Duration
}

const latency = time.Millisecond

func newSegment() *segment { return &segment{ears: map[*port]bool{}, began: time.Now()} }

// port is a machine's wire on a segment.
type port struct {
	net    *segment
	mac    [6]byte
	prefix netip.Prefix
	seen   chan frame.Sighting
	answer func(frame.Sighting) // of a machine that isn't ours; called as it hears
}

// opener returns the opener of a machine.
func (n *segment) opener(mac [6]byte) opener {
	return func(_ int, prefix netip.Prefix, _ ...netip.Addr) (wire, error) {
		p := &port{net: n, mac: mac, prefix: prefix, seen: make(chan frame.Sighting, 1000)}
		n.mu.Lock()
		n.ears[p] = true
		n.mu.Unlock()
		return p, nil
	}
}

func (p *port) Link() int                        { return 1 }
func (p *port) MAC() [6]byte                     { return p.mac }
func (p *port) Sightings() <-chan frame.Sighting { return p.seen }

func (p *port) Close() error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	delete(p.net.ears, p)
	return nil
}

func (p *port) Send(b []byte) error {
	s, ok := frame.Parse(b)
	if !ok {
		panic("want a frame that says something")
	}
	n := p.net
	n.mu.Lock()
	n.sent = append(n.sent, sent{s, time.Since(n.began)})
	lost := n.lost != nil && n.lost(len(n.sent))
	n.mu.Unlock()
	if lost {
		return nil
	}
	time.AfterFunc(latency, func() {
		n.mu.Lock()
		ears := slices.Collect(maps.Keys(n.ears))
		n.mu.Unlock()
		for _, e := range ears {
			switch {
			case e.mac == s.MAC:
			case e.answer != nil:
				e.answer(s)
			case e.prefix.Contains(s.Addr):
				e.seen <- s
			}
		}
	})
	return nil
}

// machine joins one that answers probes for the addresses that has says.
func (n *segment) machine(mac [6]byte, has func(netip.Addr) bool) {
	p := &port{net: n, mac: mac}
	p.answer = func(s frame.Sighting) {
		if !s.Probe || !has(s.Addr) {
			return
		}
		if s.Addr.Is4() {
			_ = p.Send(frame.ARP{Op: frame.ARPReply, SenderMAC: mac, Sender: s.Addr, TargetMAC: s.MAC, Target: netip.IPv4Unspecified()}.Frame(s.MAC))
			return
		}
		_ = p.Send(frame.Announcements(s.Addr, mac)[0])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ears[p] = true
}

// from returns when a machine sent what.
func (n *segment) from(mac [6]byte) (probes, claims []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sent {
		switch {
		case s.MAC != mac:
		case s.Probe:
			probes = append(probes, s.at)
		default:
			claims = append(claims, s.at)
		}
	}
	return probes, claims
}

func prober(t *testing.T, n *segment, mac [6]byte, seed uint64) *Prober {
	t.Helper()
	p := New(nil)
	p.open = n.opener(mac)
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, uint64(mac[5])))
	p.random = func(d time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(r.Int64N(int64(d)))
	}
	return p
}
