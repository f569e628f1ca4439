// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

const (
	internal = 1
	external = 2
)

// world is some nodes on an internal and an external network, with kernels that
// outlive their agents. Frames take no time.
type world struct {
	mu    sync.Mutex
	nodes []*simNode
	addrs []netip.Addr
	cut   map[string]bool // "node/link": frames are lost
	log   []string
	began time.Time
	real  time.Time // what time.Now said outside the simulation: it has a monotonic reading
}

// simNode is a node: what its kernel has, and its agent, which comes and goes.
type simNode struct {
	w       *world
	name    string
	number  byte
	entries map[netip.Addr]time.Time // when each expires; zero: never
	down    bool                     // no carrier on the external NIC
	off     bool                     // the node itself

	beat   *heartbeat.Heartbeat
	keeper *Keeper
	cancel context.CancelFunc
	ended  chan struct{}
	frozen bool
	blind  bool // the objects and the NICs aren't known yet
	queue  []func()
	skew   atomic.Int64 // of its wall clock, in seconds
}

func newWorld(real time.Time, nodes, addrs int) *world {
	w := &world{cut: map[string]bool{}, began: time.Now(), real: real}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{w: w, name: string(rune('a' + i)), number: byte(i + 1), entries: map[netip.Addr]time.Time{}})
	}
	for i := range addrs {
		w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{10, 0, external, byte(100 + i)}))
	}
	for _, n := range w.nodes {
		n.start()
	}
	return w
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%8v  ", time.Since(w.began))+fmt.Sprintf(format, args...))
}

func (w *world) end() {
	for _, n := range w.nodes {
		n.kill()
	}
}

// start starts an agent, which finds what the last one left in the kernel.
func (n *simNode) start() {
	if n.cancel == nil {
		n.begin()
		n.see()
		n.run()
	}
}

// begin makes an agent that knows nothing yet.
func (n *simNode) begin() {
	log := slog.New(slog.DiscardHandler)
	var keeper *Keeper
	beat := heartbeat.New(heartbeat.Options{Node: n.name, Port: 7474, Transport: n, Log: log, Now: n.now, Changed: func() {
		if keeper != nil {
			keeper.Wake()
		}
	}})
	keeper, _ = NewKeeper(Options{Node: n.name, Heartbeat: beat, Kernel: n, Entries: n.list, Plan: n.plan, Expiry: 30 * time.Second, Log: log, Now: n.now,
		Moved: func(a Address) {
			n.w.say("%s %s %s epoch %d: %s", n.name, a.Phase, a.Addr, a.Epoch, a.Why)
		}, Note: func(error) {}})
	n.w.mu.Lock()
	n.beat, n.keeper, n.frozen, n.blind, n.queue = beat, keeper, false, true, nil
	n.w.mu.Unlock()
}

// see has the agent know its NICs and the objects.
func (n *simNode) see() {
	n.w.mu.Lock()
	n.blind = false
	n.w.mu.Unlock()
	n.tellLinks()
	var members []heartbeat.Member
	for _, o := range n.w.nodes {
		if o != n {
			members = append(members, heartbeat.Member{Name: o.name, Addrs: []netip.Addr{o.addr(internal), o.addr(external)}})
		}
	}
	n.beat.SetMembers(members)
	n.keeper.Wake()
}

func (n *simNode) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	n.cancel, n.ended = cancel, ended
	go func() { _ = n.beat.Run(ctx); ended <- struct{}{} }()
	go func() { _ = n.keeper.Run(ctx); ended <- struct{}{} }()
}

func (n *simNode) halt() {
	n.cancel()
	<-n.ended
	<-n.ended
}

// stop is SIGSTOP: packets wait in the sockets. What goes on is SIGCONT.
func (n *simNode) stop() {
	if n.cancel == nil || n.frozen {
		return
	}
	n.w.mu.Lock()
	n.frozen = true
	n.w.mu.Unlock()
	n.halt()
}

func (n *simNode) goOn() {
	if n.cancel == nil || !n.frozen {
		return
	}
	n.w.mu.Lock()
	queue := n.queue
	n.frozen, n.queue = false, nil
	n.w.mu.Unlock()
	n.tellLinks()
	n.run()
	for _, give := range queue {
		go give()
	}
}

func (n *simNode) kill() {
	if n.cancel == nil {
		return
	}
	n.w.mu.Lock()
	wasFrozen := n.frozen
	n.frozen, n.queue = true, nil
	n.w.mu.Unlock()
	if !wasFrozen {
		n.halt()
	}
	n.cancel = nil
}

func (n *simNode) setCarrier(up bool) {
	n.w.mu.Lock()
	n.down = !up
	n.w.mu.Unlock()
	if n.cancel != nil && !n.frozen {
		n.tellLinks()
	}
}

func (n *simNode) tellLinks() {
	n.w.mu.Lock()
	down := n.down
	n.w.mu.Unlock()
	var links []heartbeat.Link
	for _, l := range []int{internal, external} {
		at := n.addr(l)
		links = append(links, heartbeat.Link{Index: l, Addr: at, NIC: heartbeat.NIC{Name: fmt.Sprint("eth", l), External: l == external,
			Carrier: l == internal || !down, MAC: n.mac(l), Addrs: []netip.Prefix{netip.PrefixFrom(at, 24)}}})
	}
	n.beat.SetLinks(links)
	n.keeper.Wake()
}

// now is the node's clock. Its wall clock may be anywhere; the monotonic reading
// in the same time.Time is right.
func (n *simNode) now() time.Time {
	t := n.w.real.Add(time.Since(n.w.began))
	// A time.Time with a monotonic reading has the wall clock's seconds in 33
	// bits of its first word, above 30 bits of nanoseconds.
	*(*uint64)(unsafe.Pointer(&t)) += uint64(n.skew.Load()) << 30
	return t
}

func (n *simNode) addr(link int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(link), n.number})
}
func (n *simNode) mac(link int) [6]byte { return [6]byte{2, 0, 0, 0, byte(link), n.number} }

// plan is the real choice, with the objects' part left out.
func (n *simNode) plan(standings map[string]Standing) []Want {
	n.w.mu.Lock()
	blind := n.blind
	n.w.mu.Unlock()
	if blind {
		return nil
	}
	var nodes []announce.Node
	for _, o := range n.w.nodes {
		st := standings[o.name]
		node := announce.Node{Name: o.name, Subnets: st.Subnets}
		if !st.Told {
			node.Subnets = []netip.Prefix{netip.PrefixFrom(o.addr(external), 24)}
		}
		nodes = append(nodes, node)
	}
	wants := []Want{}
	for _, addr := range n.w.addrs {
		req := announce.Request{Addr: addr}
		w := Want{Addr: addr, Order: announce.Order(req, nodes, Alive(standings)), Best: Steady(standings).Best(announce.Choose(req, nodes, Steady(standings)))}
		if slices.ContainsFunc(standings[n.name].Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			w.Link = external
		}
		wants = append(wants, w)
	}
	return wants
}

// reaches tells whether frames go from a node to another; w is locked.
func (w *world) reaches(from, to *simNode, link int) bool { return w.up(from, link) && w.up(to, link) }

func (w *world) up(n *simNode, link int) bool {
	return !n.off && !w.cut[fmt.Sprint(n.name, "/", link)] && (link == internal || !n.down)
}

// Send implements heartbeat.Transport.
func (n *simNode) Send(link int, from netip.Addr, to netip.AddrPort, packet []byte) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	packet = bytes.Clone(packet)
	for _, o := range n.w.nodes {
		if o.addr(link) != to.Addr() || !n.w.reaches(n, o, link) || o.beat == nil {
			continue
		}
		beat := o.beat
		give := func() { beat.Receive(link, netip.AddrPortFrom(from, 7474), to.Addr(), packet) }
		if o.frozen {
			o.queue = append(o.queue, give)
			continue
		}
		go give()
	}
	return nil
}

// Enquire implements heartbeat.Transport.
func (n *simNode) Enquire(link int, at netip.Addr, _ [6]byte) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, o := range n.w.nodes {
		if o.addr(link) == at && n.w.reaches(n, o, link) {
			beat := n.beat
			go beat.Answered(link, at, o.mac(link))
		}
	}
	return nil
}

// Outside implements heartbeat.Transport: there is a router.
func (n *simNode) Outside(link int) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.up(n, link) {
		beat := n.beat
		go beat.Answered(link, netip.Addr{}, [6]byte{2, 9})
	}
	return nil
}

// Announce implements Kernel.
func (n *simNode) Announce(addr netip.Addr, _ int, expires time.Duration) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.put(addr, expires)
	return nil
}

func (n *simNode) put(addr netip.Addr, expires time.Duration) {
	n.entries[addr] = time.Time{}
	if expires != 0 {
		n.entries[addr] = time.Now().Add(expires)
	}
}

// Renew implements Kernel.
func (n *simNode) Renew(addr netip.Addr, _ int, expires time.Duration) (bool, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if _, ok := n.entries[addr]; !ok {
		return false, nil
	}
	n.put(addr, expires)
	return true, nil
}

// Withdraw implements Kernel.
func (n *simNode) Withdraw(addr netip.Addr, _ int) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	delete(n.entries, addr)
	return nil
}

// Claim implements Kernel: the other kernels on the network give way.
func (n *simNode) Claim(addr netip.Addr, _ int) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, o := range n.w.nodes {
		if o != n && n.w.reaches(n, o, external) {
			delete(o.entries, addr)
		}
	}
}

// Probe implements Kernel: there are no strangers.
func (n *simNode) Probe(addr netip.Addr, _ int) {
	keeper := n.keeper
	go func() {
		time.Sleep(2 * heartbeat.Interval)
		keeper.Probed(addr, [6]byte{})
	}()
}

func (n *simNode) list() (map[netip.Addr]int, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out := map[netip.Addr]int{}
	for addr, expires := range n.entries {
		if expires.IsZero() || expires.After(time.Now()) {
			out[addr] = external
		}
	}
	return out, nil
}

// answering are the nodes that a client on the external network would hear.
func (w *world) answering(addr netip.Addr) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if expires, ok := n.entries[addr]; ok && w.up(n, external) && (expires.IsZero() || expires.After(time.Now())) {
			names = append(names, n.name)
		}
	}
	return names
}

// able are the nodes with a living agent that a client could hear.
func (w *world) able() (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if w.up(n, external) && n.cancel != nil && !n.frozen {
			count++
		}
	}
	return count
}

// awake tells whether the agent of one of the nodes runs, and has for long
// enough to say something.
func (w *world) awake(names []string) bool {
	var beats []*heartbeat.Heartbeat
	w.mu.Lock()
	for _, n := range w.nodes {
		if slices.Contains(names, n.name) && n.cancel != nil && !n.frozen {
			beats = append(beats, n.beat)
		}
	}
	w.mu.Unlock()
	return slices.ContainsFunc(beats, (*heartbeat.Heartbeat).Awake)
}

// fault changes something at random.
func (w *world) fault(r *rand.Rand) {
	n := w.nodes[r.IntN(len(w.nodes))]
	link := internal + r.IntN(2)
	set := func(link int, lost bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cut[fmt.Sprint(n.name, "/", link)] = lost
	}
	switch k := r.IntN(11); k {
	case 10:
		n.skew.Store(int64(r.IntN(3)-1) * 86400)
		w.say("the clock of %s jumps to %d s off", n.name, n.skew.Load())
	case 0, 1:
		w.say("cut %s/%d", n.name, link)
		set(link, true)
	case 2:
		w.say("cut %s", n.name)
		set(internal, true)
		set(external, true)
	case 3, 4:
		w.say("heal %s", n.name)
		set(internal, false)
		set(external, false)
		n.setCarrier(true)
	case 5:
		w.say("unplug %s", n.name)
		n.setCarrier(false)
	case 6:
		w.say("stop %s", n.name)
		n.stop()
	case 7:
		w.say("continue or start %s", n.name)
		n.goOn()
		n.start()
	case 8:
		w.say("kill %s", n.name)
		n.kill()
	case 9:
		w.say("heal all")
		for _, o := range w.nodes {
			o.goOn()
			o.start()
			o.setCarrier(true)
		}
		w.mu.Lock()
		clear(w.cut)
		w.mu.Unlock()
	}
}
