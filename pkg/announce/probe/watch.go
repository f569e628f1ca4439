// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// Guard is an address that this node watches over on a NIC.
type Guard struct {
	Addr netip.Addr
	Link int
	// Announced: the datapath answers for it. Otherwise it was found free and is
	// about to be used; until then Watcher answers those that search for it.
	Announced bool
}

// Conflict is an address of ours that another machine claims.
type Conflict struct {
	Guard
	MAC   [6]byte
	Since time.Time // first seen
}

// How a Watcher looks again.
const (
	// lookAgain is after how long without a claim it is asked whether the other
	// machine still has the address.
	lookAgain = time.Minute
	lookEvery = 10 * time.Second
	// reopenAfter is how long a NIC that can't be listened on is left alone.
	reopenAfter = 2 * time.Second
	// answerEvery is the least time between two answers to those who search.
	answerEvery = 100 * time.Millisecond
	// maxAsked is how many machines are asked, in lookEvery, whether they answer
	// for everything: each question is some frames, and a forger has many MACs.
	maxAsked = 8
	// toldEvery is the least time from telling of one machine that claims an
	// address to telling of another: who forges MACs fills no log.
	toldEvery = 10 * time.Second
)

// Watcher listens for what others say of the addresses that it guards. Make one
// with NewWatcher.
type Watcher struct {
	log     *slog.Logger
	ours    func(mac [6]byte) bool
	told    func(Conflict)
	open    opener
	random  func(time.Duration) time.Duration
	changed chan struct{}

	mu        sync.Mutex
	subnets   map[int][]netip.Prefix
	guards    map[key]Guard
	conflicts map[key]*conflict
	defended  map[key]time.Time
	asked     map[[6]byte]*machine // asked anew now and then
	said      map[[6]byte]bool     // of which it was said that it answers for everything
}

type key struct {
	addr netip.Addr
	link int
}

// machine is one that answers, and may answer for everything.
type machine struct {
	known  bool // it has been asked
	all    bool // it does
	claims map[key]claim
}

// claim is of an address, by a machine that is being asked.
type claim struct {
	Guard
	nic wire
}

type conflict struct {
	Conflict
	seen time.Time // last
	told time.Time
}

// NewWatcher returns a watcher; nothing is heard before Run. Ours tells the MACs
// of the cluster's nodes, and told is called from Run for each new conflict.
func NewWatcher(ours func(mac [6]byte) bool, told func(Conflict), log *slog.Logger) *Watcher {
	return &Watcher{
		log: log, ours: ours, told: told, open: openSocket, random: New(nil).random, changed: make(chan struct{}, 1),
		guards: map[key]Guard{}, conflicts: map[key]*conflict{}, defended: map[key]time.Time{},
		asked: map[[6]byte]*machine{}, said: map[[6]byte]bool{},
	}
}

// Set replaces what is guarded, and the subnets of the NICs by index.
func (w *Watcher) Set(guards []Guard, subnets map[int][]netip.Prefix) {
	next := make(map[key]Guard, len(guards))
	for _, g := range guards {
		next[key{g.Addr, g.Link}] = g
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subnets = subnets
	if maps.Equal(w.guards, next) {
		return
	}
	w.guards = next
	maps.DeleteFunc(w.conflicts, func(k key, _ *conflict) bool { return next[k] == Guard{} })
	maps.DeleteFunc(w.defended, func(k key, _ time.Time) bool { return next[k] == Guard{} })
	for k, c := range w.conflicts {
		c.Guard = next[k]
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Conflicts returns the conflicts that are known now, by address.
func (w *Watcher) Conflicts() []Conflict {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Conflict, 0, len(w.conflicts))
	for _, c := range w.conflicts {
		list = append(list, c.Conflict)
	}
	slices.SortFunc(list, func(a, b Conflict) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Link, b.Link)) })
	return list
}

// Run listens until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	ears := map[place]*ear{}
	defer func() {
		for _, e := range ears {
			e.stop()
		}
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		w.listenOn(ctx, ears)
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-look.C:
			w.lookAgain(ctx)
		}
	}
}

// place is where one socket listens.
type place struct {
	link int
	is4  bool
}

// ear is a socket that listens for some addresses.
type ear struct {
	addrs []netip.Addr
	stop  func()
}

// listenOn opens and closes sockets so that what is guarded is heard.
func (w *Watcher) listenOn(ctx context.Context, ears map[place]*ear) {
	want := map[place][]netip.Addr{}
	w.mu.Lock()
	for k := range w.guards {
		p := place{k.link, k.addr.Is4()}
		want[p] = append(want[p], k.addr)
	}
	w.mu.Unlock()
	for p, addrs := range want {
		slices.SortFunc(addrs, netip.Addr.Compare)
		old := ears[p]
		if old != nil && slices.Equal(old.addrs, addrs) {
			continue
		}
		ears[p] = w.listenAt(ctx, p, addrs)
		if old != nil {
			old.stop() // after the new one is open: nothing goes unheard
		}
	}
	for p, e := range ears {
		if want[p] == nil {
			e.stop()
			delete(ears, p)
		}
	}
}

// listenAt keeps a socket open until it is stopped. It returns when the first
// attempt to open it has been made.
func (w *Watcher) listenAt(ctx context.Context, p place, addrs []netip.Addr) *ear {
	ctx, cancel := context.WithCancel(ctx)
	opened, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ctx.Err() == nil; first = false {
			nic, err := w.open(p.link, frame.Covering(addrs...), addrs...)
			if first {
				close(opened)
			}
			if err == nil {
				w.listen(ctx, nic)
				err = nic.Close()
			}
			if err != nil && ctx.Err() == nil {
				w.log.Warn("listen for claims", "link", p.link, "error", err)
			}
			if ctx.Err() == nil {
				_ = pause(ctx, reopenAfter)
			}
		}
	}()
	select {
	case <-opened:
	case <-done: // ctx had ended before
	}
	return &ear{addrs, func() { cancel(); <-done }}
}

// listen hears all that one socket brings.
func (w *Watcher) listen(ctx context.Context, nic wire) {
	answered := map[netip.Addr]time.Time{} // who searched
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-nic.Sightings():
			if !ok {
				return
			}
			g, ok := w.guard(s.Addr, nic.Link())
			switch {
			case !ok || s.MAC == nic.MAC() || w.ours != nil && w.ours(s.MAC):
			case s.Probe && !g.Announced && time.Since(answered[s.Addr]) >= answerEvery:
				answered[s.Addr] = time.Now()
				w.say(nic, g)
			case s.Probe:
			case w.doubt(claim{g, nic}, s):
				asking.Go(func() { w.ask(ctx, g, s.MAC) }) // beside: nothing goes unheard meanwhile
			}
		}
	}
}

// claimed takes in that another machine claims an address.
func (w *Watcher) claimed(c claim, mac [6]byte) {
	if w.note(c.Guard, mac) {
		w.say(c.nic, c.Guard)
	}
}

func (w *Watcher) guard(addr netip.Addr, link int) (Guard, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, ok := w.guards[key{addr, link}]
	return g, ok
}

// say announces an address once.
func (w *Watcher) say(nic wire, g Guard) {
	for _, f := range frame.Announcements(g.Addr, nic.MAC()) {
		if err := nic.Send(f); err != nil {
			w.log.Warn("defend address", "address", g.Addr, "error", err)
		}
	}
}

// doubt takes a claim in, and tells whether the machine that it comes from must
// be asked first; then the claim waits.
func (w *Watcher) doubt(c claim, s frame.Sighting) (ask bool) {
	w.mu.Lock()
	m := w.asked[s.MAC]
	switch {
	case !mayBeProxied(s), m == nil && len(w.asked) >= maxAsked && !w.said[s.MAC], m != nil && m.known && !m.all:
		w.mu.Unlock()
		w.claimed(c, s.MAC)
		return false
	case m == nil:
		m, ask = &machine{claims: map[key]claim{}}, true
		w.asked[s.MAC] = m
	}
	if !m.known {
		m.claims[key{c.Addr, c.Link}] = c
	}
	w.mu.Unlock()
	return ask
}

// ask finds out whether a machine answers for everything, which is said once.
// If it doesn't, what it claimed meanwhile is taken in.
func (w *Watcher) ask(ctx context.Context, g Guard, mac [6]byte) {
	w.mu.Lock()
	subnets := w.subnets[g.Link]
	w.mu.Unlock()
	all, err := answersAll(ctx, w.open, Target{Addr: g.Addr, Link: g.Link, Subnets: subnets}, mac, w.random)
	if err != nil && ctx.Err() == nil {
		w.log.Warn("ask for addresses that nobody has", "error", err)
	}
	w.mu.Lock()
	claims := w.asked[mac].claims
	w.asked[mac] = &machine{known: true, all: all}
	if all && !w.said[mac] {
		w.said[mac] = true
		w.log.Warn("a machine answers for every address (proxy ARP); its answers are no conflicts", "mac", MAC(mac), "address", g.Addr)
	}
	w.mu.Unlock()
	if all {
		return
	}
	for _, c := range claims {
		w.claimed(c, mac)
	}
}

// note enters a claim, tells of it if it is new, and returns whether to defend
// the address: by RFC 5227, 2.4 (b), but that it is kept after a second claim
// too, as by (c): others rely on it.
func (w *Watcher) note(g Guard, mac [6]byte) (defend bool) {
	now, k := time.Now(), key{g.Addr, g.Link}
	w.mu.Lock()
	if _, guarded := w.guards[k]; !guarded {
		w.mu.Unlock()
		return false
	}
	c := w.conflicts[k]
	fresh := c == nil || c.MAC != mac && now.Sub(c.told) >= toldEvery
	if fresh {
		c = &conflict{Conflict: Conflict{Guard: g, MAC: mac, Since: now}, told: now}
		w.conflicts[k] = c
	}
	c.seen = now
	if defend = now.Sub(w.defended[k]) >= defendEvery; defend {
		w.defended[k] = now
	}
	w.mu.Unlock()
	if fresh {
		w.told(c.Conflict)
	}
	return defend
}

// lookAgain asks for the addresses whose last claim is long ago, and forgets
// the conflicts that are over.
func (w *Watcher) lookAgain(ctx context.Context) {
	w.mu.Lock()
	maps.DeleteFunc(w.asked, func(_ [6]byte, m *machine) bool { return m.known })
	var due []Conflict
	for _, c := range w.conflicts {
		if time.Since(c.seen) >= lookAgain {
			due = append(due, c.Conflict)
		}
	}
	w.mu.Unlock()
	foreign := func(mac [6]byte) bool { return w.ours == nil || !w.ours(mac) }
	for _, c := range due {
		found, err := ask(ctx, w.open, c.Link, foreign, c.Addr)
		_, still := found[c.Addr]
		w.mu.Lock()
		now := w.conflicts[key{c.Addr, c.Link}]
		switch {
		case now == nil:
		case err != nil || still:
			now.seen = time.Now()
		default:
			delete(w.conflicts, key{c.Addr, c.Link})
			w.log.Info("address conflict is over", "address", c.Addr, "mac", MAC(c.MAC))
		}
		w.mu.Unlock()
	}
}

// MAC writes a hardware address as usual.
type MAC [6]byte

// String returns it with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
