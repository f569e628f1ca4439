// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// air joins the NICs of some nodes: link 1 is the internal network, 2 the
// external one.
type air struct {
	mu      sync.Mutex
	nodes   map[string]*testNode
	cut     map[string]bool // "node/link"
	stopped map[string]bool // kernels that don't answer
	deaf    map[string]bool // "node/link": sends, but hears nothing
	curt    bool            // nobody's state comes through, as it is longer than a beat
	router  bool            // something else answers on link 2
	outside int             // how often that was asked
	record  [][]byte
}

type testNode struct {
	*Heartbeat
	air    *air
	name   string
	number byte
	frozen bool
	queued []func()
	done   context.CancelFunc
}

func addr(link int, number byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(link), number})
}

func (a *air) add(number byte, key string) *testNode {
	name := string('a' + rune(number) - 1)
	n := &testNode{air: a, name: name, number: number}
	n.Heartbeat = New(Options{Node: name, Key: []byte(key), Port: 7474, Transport: n, Log: slog.New(slog.DiscardHandler), Changed: func() {}})
	a.mu.Lock()
	a.nodes[name] = n
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	n.done = cancel
	n.SetLinks([]Link{n.link(1), n.link(2)})
	var members []Member
	for i := byte(1); i <= 3; i++ {
		if i != number {
			members = append(members, Member{Name: string('a' + rune(i) - 1), Addrs: []netip.Addr{addr(1, i)}}) // the external one is learnt
		}
	}
	n.SetMembers(members)
	go n.Run(ctx)
	return n
}

func (n *testNode) link(i int) Link {
	at := addr(i, n.number)
	return Link{Index: i, Addr: at, NIC: NIC{Name: fmt.Sprintf("eth%d", i), External: i == 2, Carrier: true,
		MAC: [6]byte{2, 0, 0, 0, byte(i), n.number}, Addrs: []netip.Prefix{netip.PrefixFrom(at, 24)}}}
}

func (n *testNode) Send(link int, from netip.Addr, to netip.AddrPort, packet []byte) error {
	n.air.mu.Lock()
	defer n.air.mu.Unlock()
	if n.air.cut[fmt.Sprint(n.name, "/", link)] || n.air.curt && len(packet) > 200 {
		return nil
	}
	packet = bytes.Clone(packet)
	n.air.record = append(n.air.record, packet)
	for _, other := range n.air.nodes {
		if addr(link, other.number) != to.Addr() || n.air.cut[fmt.Sprint(other.name, "/", link)] || n.air.deaf[fmt.Sprint(other.name, "/", link)] {
			continue
		}
		give := func() { other.Receive(link, netip.AddrPortFrom(from, 7474), to.Addr(), packet) }
		if other.frozen {
			other.queued = append(other.queued, give)
			continue
		}
		go give()
	}
	return nil
}

func (n *testNode) Enquire(link int, at netip.Addr, _ [6]byte) error {
	n.air.mu.Lock()
	defer n.air.mu.Unlock()
	for _, other := range n.air.nodes {
		if addr(link, other.number) == at && !n.air.stopped[other.name] &&
			!n.air.cut[fmt.Sprint(other.name, "/", link)] && !n.air.cut[fmt.Sprint(n.name, "/", link)] {
			go n.Answered(link, at, [6]byte{2, 0, 0, 0, byte(link), other.number})
		}
	}
	return nil
}

func (n *testNode) Outside(link int) error {
	n.air.mu.Lock()
	defer n.air.mu.Unlock()
	n.air.outside++
	if n.air.router && !n.air.cut[fmt.Sprint(n.name, "/", link)] && !n.air.deaf[fmt.Sprint(n.name, "/", link)] {
		go n.Answered(link, addr(link, 254), [6]byte{2, 0, 0, 0, 0, 254})
	}
	return nil
}

func (a *air) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func lab(t *testing.T, f func(t *testing.T, a *air, n []*testNode)) {
	synctest.Test(t, func(t *testing.T) {
		a := &air{nodes: map[string]*testNode{}, cut: map[string]bool{}, stopped: map[string]bool{}, deaf: map[string]bool{}, router: true}
		n := []*testNode{a.add(1, "k"), a.add(2, "k"), a.add(3, "k")}
		defer func() {
			for _, x := range a.nodes {
				x.done()
			}
			synctest.Wait()
		}()
		time.Sleep(time.Second)
		f(t, a, n)
	})
}

func check(t *testing.T, what string, n *testNode, peer string, ok func(Peer) bool) {
	t.Helper()
	if p := n.View().Peers[peer]; !ok(p) {
		t.Errorf("%s: %s sees %s as %+v", what, n.name, peer, p)
	}
}

func onBoth(p Peer) bool {
	return p.Agent && p.Known && p.Node == Alive && slices.Equal(p.Links, []int{1, 2}) && p.Missed == nil
}

func TestTogether(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		for _, x := range n {
			for _, y := range n {
				if x != y {
					check(t, "start", x, y.name, onBoth)
				}
			}
		}
		long := make([]Held, 300)
		for i := range long {
			long[i] = Held{Addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), Epoch: uint64(i)}
		}
		n[0].SetHeld(long)
		time.Sleep(time.Millisecond)
		check(t, "told at once, in pages", n[1], "a", func(p Peer) bool { return slices.Equal(p.State.Held, long) })
		n[0].SetLeaving(true)
		time.Sleep(time.Millisecond)
		check(t, "leaving", n[2], "a", func(p Peer) bool { return p.State.Leaving })
	})
}

func TestCutNIC(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		a.set(func() { a.cut["a/2"] = true })
		time.Sleep(Silence + 2*Interval)
		check(t, "one NIC cut", n[1], "a", func(p Peer) bool {
			return p.Agent && p.Node == Alive && slices.Equal(p.Links, []int{1}) && slices.Equal(p.Missed, []int{2}) && p.Answers == nil
		})
		check(t, "and it knows", n[1], "a", func(p Peer) bool {
			nic := p.State.NICs[1]
			return nic.Hears == nil && len(nic.Missed) == 2 && nic.Outside == 0
		})
		check(t, "the rest is together", n[1], "c", func(p Peer) bool {
			nic := p.State.NICs[1]
			return slices.Equal(nic.Hears, []string{"b"}) && slices.Equal(nic.Missed, []string{"a"}) && nic.Outside == 1
		})
		a.set(func() { clear(a.cut) })
		time.Sleep(Interval + 5*time.Millisecond)
		check(t, "healed", n[1], "a", onBoth)
		time.Sleep(2 * Interval) // the other one tells first that it hears this one
		check(t, "healed, outside isn't asked any more", n[1], "c", func(p Peer) bool { return p.State.NICs[1].Outside == 0 })
	})
}

// TestOneWay: of two nodes one of which sends but hears nothing, the other one
// asks outside, though it misses nobody.
func TestOneWay(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		n[2].done()
		a.set(func() { a.deaf["b/2"], a.cut["c/1"], a.cut["c/2"] = true, true, true })
		time.Sleep(Silence + 3*Interval)
		check(t, "deaf", n[0], "b", func(p Peer) bool {
			nic := p.State.NICs[1]
			return slices.Equal(p.Links, []int{1, 2}) && slices.Equal(nic.Missed, []string{"a"}) && nic.Outside == 0
		})
		check(t, "well", n[1], "a", func(p Peer) bool { return p.State.NICs[1].Outside == 1 })
		a.set(func() { clear(a.deaf) })
		time.Sleep(5 * Interval)
		check(t, "healed", n[1], "a", func(p Peer) bool { return onBoth(p) && p.State.NICs[1].Outside == 0 })
	})
}

// TestOutsidePaced: what lasts is asked about once a second, and as well known.
func TestOutsidePaced(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		a.set(func() { a.cut["a/2"] = true })
		time.Sleep(outsideOften + Silence + time.Second)
		a.set(func() { a.outside = 0 })
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			if n[2].View().Own.NICs[1].Outside != 1 {
				t.Fatal("not answered meanwhile")
			}
		}
		a.set(func() {
			if a.outside < 27 || a.outside > 36 {
				t.Errorf("three nodes asked %d times in 10 s, want each once a second", a.outside)
			}
			a.router = false
		})
		time.Sleep(outsideFresh + 2*Interval)
		check(t, "the router is gone", n[1], "c", func(p Peer) bool { return p.State.NICs[1].Outside == 0 })
	})
}

func TestDeadNode(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		since := time.Now()
		n[0].done()
		a.set(func() { n[0].frozen = true })
		for n[1].View().Peers["a"].Agent {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(since); took > Silence+2*Interval {
			t.Errorf("a dead agent was noticed after %v", took)
		}
		check(t, "agent dead, node alive", n[1], "a", func(p Peer) bool { return p.Node == Alive && slices.Equal(p.Answers, []int{1, 2}) })
		a.set(func() { a.stopped["a"] = true })
		time.Sleep(fresh + Interval)
		check(t, "node dead", n[1], "a", func(p Peer) bool { return !p.Agent && p.Node == Dead })

		since = time.Now()
		a.set(func() { a.cut["c/1"], a.cut["c/2"] = true, true })
		for n[1].View().Peers["c"].Node != Dead {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(since); took > Silence+2*Interval {
			t.Errorf("a dead node was noticed after %v", took)
		}
		a.set(func() { clear(a.cut); delete(a.stopped, "a"); delete(a.nodes, "a") })
		a.add(1, "k")
		time.Sleep(3*Interval + 10*time.Millisecond)
		check(t, "a new life", n[1], "a", onBoth)
		check(t, "healed", n[1], "c", onBoth)
	})
}

// TestShortLife: what an agent told counts until its next life has told anew,
// though that may end before.
func TestShortLife(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		held := []Held{{Addr: addr(2, 100), Epoch: 3}}
		n[0].SetHeld(held)
		n[0].done()
		a.set(func() { a.curt = true; delete(a.nodes, "a") })
		next := a.add(1, "k")
		time.Sleep(2 * Interval)
		told := func(p Peer) bool { return !p.Known && slices.Equal(p.State.Held, held) }
		check(t, "heard, and no more", n[1], "a", func(p Peer) bool { return p.Agent && told(p) })
		next.done()
		a.set(func() { next.frozen = true })
		time.Sleep(Silence + 2*Interval)
		check(t, "gone again", n[1], "a", func(p Peer) bool { return !p.Agent && p.Node == Alive && told(p) })
		a.set(func() { a.curt = false; delete(a.nodes, "a") })
		a.add(1, "k")
		time.Sleep(4 * Interval)
		check(t, "told anew", n[1], "a", func(p Peer) bool { return p.Agent && p.Known && p.State.Held == nil })
	})
}

// TestLongSilent: a node without an agent goes on being alive while its kernel is
// asked ever so rarely, and is dead soon after that no longer answers.
func TestLongSilent(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		n[0].done()
		a.set(func() { n[0].frozen = true })
		time.Sleep(rarely*Interval + time.Minute)
		for range 300 {
			time.Sleep(10 * time.Millisecond)
			if p := n[1].View().Peers["a"]; p.Node != Alive || !slices.Equal(p.Answers, []int{1, 2}) {
				t.Fatalf("asked rarely: %+v, want it alive", p)
			}
		}
		a.set(func() { a.stopped["a"], a.record = true, nil })
		time.Sleep(freshRarely + Interval)
		check(t, "node dead", n[1], "a", func(p Peer) bool { return p.Node == Dead && p.Answers == nil })
	})
}

// TestAnotherAnswers: whoever has taken the address of a dead node isn't it.
func TestAnotherAnswers(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		n[0].done()
		a.set(func() { n[0].frozen, a.stopped["a"] = true, true })
		for range 10 {
			time.Sleep(Interval)
			n[1].Answered(2, addr(2, 1), [6]byte{2, 9})
		}
		check(t, "another MAC", n[1], "a", func(p Peer) bool { return p.Node == Dead && p.Answers == nil })
		n[1].Answered(2, addr(2, 1), n[0].link(2).MAC)
		check(t, "its own", n[1], "a", func(p Peer) bool { return p.Node == Alive && slices.Equal(p.Answers, []int{2}) })
	})
}

// TestStoodStill: who was stopped himself doesn't take the others for dead.
func TestStoodStill(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		a.set(func() { n[0].frozen = true })
		n[0].done() // its ticks wait
		time.Sleep(10 * time.Second)
		check(t, "stopped", n[1], "a", func(p Peer) bool { return !p.Agent && p.Node == Alive })
		a.set(func() {
			n[0].frozen = false
			for _, give := range n[0].queued {
				go give()
			}
		})
		n[0].tick()
		time.Sleep(10 * time.Millisecond)
		v := n[0].View()
		if !v.Peers["b"].Agent || v.Settled {
			t.Errorf("after the stop: %+v, want b alive, not settled", v)
		}
		ctx, cancel := context.WithCancel(context.Background())
		n[0].done = cancel
		go n[0].Run(ctx)
		time.Sleep(settle + 2*Interval)
		if !n[0].View().Settled {
			t.Error("not settled in the end")
		}
		check(t, "heard again", n[1], "a", onBoth)
	})
}

// TestPlayedBack: nothing that was recorded is heard again, not even by a node
// that has started anew.
func TestPlayedBack(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		a.set(func() { a.cut["a/1"], a.cut["a/2"] = true, true })
		time.Sleep(time.Second)
		check(t, "cut off", n[1], "a", func(p Peer) bool { return !p.Agent })
		play := func(to *testNode) {
			a.mu.Lock()
			record := slices.Clone(a.record)
			a.mu.Unlock()
			for _, packet := range record {
				for link := 1; link <= 2; link++ {
					to.Receive(link, netip.AddrPortFrom(addr(link, 1), 7474), addr(link, to.number), packet)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		// An address that the recording names, while the peer is known by none.
		pairs := func() string {
			n[1].mu.Lock()
			defer n[1].mu.Unlock()
			return fmt.Sprint(n[1].peers["a"].pairs[2].remote)
		}
		was := pairs()
		n[1].mu.Lock()
		n[1].peers["a"].retired = append(n[1].peers["a"].retired, n[0].life)
		n[1].peers["a"].pairs[2].remote = netip.AddrPortFrom(addr(2, 99), 7474)
		n[1].mu.Unlock()
		play(n[1])
		if got := pairs(); got != "10.0.2.99:7474" || was == got {
			t.Errorf("its address is %s, learnt from what wasn't accepted", got)
		}
		n[1].mu.Lock()
		n[1].peers["a"].retired = nil
		n[1].peers["a"].pairs[2].remote = netip.MustParseAddrPort(was)
		n[1].mu.Unlock()
		play(n[1])
		check(t, "played back", n[1], "a", func(p Peer) bool { return !p.Agent })
		check(t, "the others stay", n[1], "c", onBoth)
		n[1].done()
		a.set(func() { delete(a.nodes, "b") })
		b := a.add(2, "k")
		play(b)
		check(t, "played back to a new life", b, "a", func(p Peer) bool { return !p.Agent })
		time.Sleep(Interval)
		check(t, "the others", b, "c", onBoth)
	})
}

func TestKey(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		n[2].done()
		a.set(func() { delete(a.nodes, "c") })
		stranger := a.add(3, "another")
		time.Sleep(time.Second)
		check(t, "another key", n[0], "c", func(p Peer) bool { return !p.Agent })
		check(t, "another key", stranger, "a", func(p Peer) bool { return !p.Agent })
	})
}

func TestAsk(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		asked := 0
		n[1].Answer("shout", func(body []byte) []byte {
			asked++
			time.Sleep(time.Second) // asked again meanwhile
			return bytes.ToUpper(body)
		})
		got, err := n[0].Ask(t.Context(), "b", "shout", []byte("hello"))
		if err != nil || string(got) != "HELLO" || asked != 1 {
			t.Errorf("asked %d times: %q, %v", asked, got, err)
		}
		if _, err := n[0].Ask(t.Context(), "b", "whisper", nil); err == nil || !strings.Contains(err.Error(), `"whisper"`) {
			t.Errorf("unknown question: %v", err)
		}
		if _, err := n[0].Ask(t.Context(), "z", "shout", nil); err == nil {
			t.Error("unknown node: no error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 350*time.Millisecond)
		defer cancel()
		a.set(func() { a.cut["b/1"] = true })
		if _, err := n[0].Ask(ctx, "b", "shout", nil); err == nil {
			t.Error("cut: no error")
		}
	})
}

func TestWindow(t *testing.T) {
	var w window
	for _, step := range []struct {
		number uint64
		first  bool
	}{{5, true}, {5, false}, {3, true}, {3, false}, {4, true}, {70, true}, {5, false}, {7, true}, {6, false}, {8, true}, {200, true}, {136, false}, {137, true}} {
		if got := w.first(step.number); got != step.first {
			t.Errorf("%d: want first %v", step.number, step.first)
		}
	}
}

func FuzzReceive(f *testing.F) {
	h := header{kind: kindState, from: "a", to: "b", life: 1}
	f.Add(h.append(nil))
	f.Add([]byte(magic))
	long := header{kind: kindBeat, from: strings.Repeat("x", 255), to: "b"} // its length and one is 0 in a byte
	f.Add(long.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		head, body, err := parseHeader(data)
		if err != nil {
			return
		}
		if again := append(head.append(nil), body...); !bytes.Equal(again, data) {
			t.Errorf("%x parsed and written is %x", data, again)
		}
		var c collector
		_, _, _ = c.add(head.digest, body)
	})
}

// TestPlayedBackOnNewPair: packets of a node's present life, recorded, don't make
// a dead node live, though the pair was made anew since (a NIC's address changed
// and changed back, a NIC came again).
func TestPlayedBackOnNewPair(t *testing.T) {
	lab(t, func(t *testing.T, a *air, n []*testNode) {
		var record [][]byte
		a.set(func() { record = append(record, a.record...) })
		n[1].done()
		a.set(func() { a.cut["b/1"], a.cut["b/2"], a.stopped["b"] = true, true, true })
		time.Sleep(3 * time.Second)
		check(t, "dead", n[0], "b", func(p Peer) bool { return p.Node == Dead })
		// a's NIC goes away and comes again, as by a driver's reset.
		n[0].SetLinks([]Link{n[0].link(1)})
		n[0].SetLinks([]Link{n[0].link(1), n[0].link(2)})
		for range 3 {
			for _, p := range record {
				n[0].Receive(2, netip.AddrPortFrom(addr(2, 2), 7474), addr(2, 1), p)
			}
		}
		check(t, "played back", n[0], "b", func(p Peer) bool { return !p.Agent && p.Node != Alive }) // unknown until it was asked
	})
}
