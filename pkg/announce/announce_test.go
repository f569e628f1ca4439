// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func addrN(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

func TestOwnerSpreadsAndStays(t *testing.T) {
	nodes := []string{"a", "b", "c"}
	had := make(map[string]int)
	for i := range 240 {
		owner := Owner(addrN(i), nodes)
		had[owner]++
		if got := Owner(addrN(i), []string{"c", "b", "a"}); got != owner {
			t.Fatalf("%s: %s in another order, want %s", addrN(i), got, owner)
		}
		if without := Owner(addrN(i), []string{"a", "b"}); owner != "c" && without != owner {
			t.Errorf("%s moved from %s to %s though only c left", addrN(i), owner, without)
		}
	}
	for _, n := range nodes {
		if had[n] < 50 {
			t.Errorf("spread %v, want about 80 each", had)
		}
	}
	if got := Owner(addrN(1), nil); got != "" {
		t.Errorf("without candidates: %q", got)
	}
}

type alive map[string]bool

func (a alive) Alive(node string) bool { return a[node] }

func TestChoose(t *testing.T) {
	lan := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}
	a := Node{Name: "a", Subnets: lan, Labels: map[string]string{"edge": "yes"}}
	b := Node{Name: "b", Subnets: lan}
	unplugged := Node{Name: "c", Subnets: []netip.Prefix{}}
	excluded := Node{Name: "a", Subnets: lan, Excluded: true}
	tests := []struct {
		name    string
		req     Request
		nodes   []Node
		members Members
		owner   string
		reason  string
	}{
		{"only one", Request{}, []Node{a, unplugged}, Static{}, "a", "only eligible"},
		{"none on the network", Request{}, []Node{unplugged}, Static{}, "", "no node has an external NIC"},
		{"unknown NICs count", Request{}, []Node{{Name: "d"}}, Static{}, "d", "only"},
		{"excluded", Request{}, []Node{excluded, b}, Static{}, "b", "only"},
		{"all excluded", Request{}, []Node{excluded}, Static{}, "a", "though all nodes are excluded"},
		{"dead agent", Request{}, []Node{a, b}, alive{"b": true}, "b", "only"},
		{"local endpoints", Request{Local: []string{"b"}}, []Node{a, b}, Static{}, "b", "only"},
		{"no local endpoint", Request{Local: []string{}}, []Node{b}, Static{}, "b", "though no node has a ready endpoint"},
		{"preferred", Request{Preferred: []string{"x", "b"}}, []Node{a, b}, Static{}, "b", "preferred"},
		{"pool's nodes", Request{Selects: func(l map[string]string) bool { return l["edge"] == "yes" }}, []Node{a, b}, Static{}, "a", "only"},
		{"pool without nodes", Request{Selects: func(map[string]string) bool { return false }}, []Node{a, b}, Static{}, "", "nodeSelector"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Addr = addrN(99)
			got := Choose(tt.req, tt.nodes, tt.members)
			if got.Owner != tt.owner || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("Choose = %q because %q, want %q because of %q", got.Owner, got.Reason, tt.owner, tt.reason)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	lan := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}
	nodes := []Node{{Name: "a", Subnets: lan}, {Name: "b", Subnets: lan}, {Name: "c", Subnets: lan}, {Name: "d", Subnets: []netip.Prefix{}}}
	order := Order(Request{Addr: addrN(9)}, nodes, alive{"a": true, "c": true})
	if len(order) != 2 || order[0] != Owner(addrN(9), []string{"a", "c"}) || order[0] == order[1] {
		t.Errorf("order %v, want those of a and c, best first", order)
	}
	if order := Order(Request{Addr: addrN(9)}, nodes, alive{}); len(order) != 1 {
		t.Errorf("order %v, want one though no agent is alive", order)
	}
	preferred := Order(Request{Addr: addrN(9), Preferred: []string{"c", "b"}}, nodes, Static{})
	if len(preferred) != 3 || preferred[0] != "c" || preferred[1] != "b" {
		t.Errorf("order %v, want c and b first", preferred)
	}
}

// TestOrderIsChoose: whatever the nodes are like, the order is what Choose would
// pick, one after the other.
func TestOrderIsChoose(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", "d", "e"}
	some := func() []string {
		return slices.DeleteFunc(slices.Clone(names), func(string) bool { return r.IntN(3) > 0 })
	}
	for i := range 2000 {
		req, members := Request{Addr: addrN(i), Preferred: some()}, alive{}
		if r.IntN(2) == 0 {
			req.Local = append([]string{}, some()...)
		}
		if r.IntN(4) == 0 {
			req.Selects = func(l map[string]string) bool { return l != nil }
		}
		r.Shuffle(len(req.Preferred), func(i, j int) {
			req.Preferred[i], req.Preferred[j] = req.Preferred[j], req.Preferred[i]
		})
		var nodes []Node
		for _, name := range names {
			n := Node{Name: name, Excluded: r.IntN(3) == 0}
			if r.IntN(4) == 0 {
				n.Subnets = []netip.Prefix{}
			}
			if r.IntN(2) == 0 {
				n.Labels = map[string]string{}
			}
			members[name] = r.IntN(3) > 0
			nodes = append(nodes, n)
		}
		var want []string
		for left := nodes; ; {
			owner := Choose(req, left, members).Owner
			if owner == "" || len(want) > 0 && !members.Alive(owner) {
				break
			}
			want = append(want, owner)
			left = filter(left, func(n Node) bool { return n.Name != owner })
		}
		if got := Order(req, nodes, members); !slices.Equal(got, want) {
			t.Fatalf("%+v among %+v, alive %v: order %v, want %v", req, nodes, members, got, want)
		}
	}
}

func TestSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, asleep := map[int]int{}, false
		send := func(link int, frames [][]byte) error {
			sent[link] += len(frames)
			return nil
		}
		may := func(due []Claim) []Claim {
			if asleep {
				return nil
			}
			return due
		}
		s := NewSender(send, func(int) [6]byte { return [6]byte{2} }, may, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		s.Claim(Claim{Addr: addrN(1), Link: 1})
		s.Claim(Claim{Addr: netip.MustParseAddr("fd00::1"), Link: 2})
		synctest.Wait()
		if sent[1] != 2 || sent[2] != 1 {
			t.Errorf("sent %v at once, want both forms of ARP and an advertisement", sent)
		}
		time.Sleep(10 * time.Second)
		if sent[1] != 2*5 || sent[2] != 5 {
			t.Errorf("sent %v, want each five times", sent)
		}
		s.Drop(netip.MustParseAddr("fd00::1"))
		time.Sleep(time.Minute)
		if sent[1] != 2*7 || sent[2] != 5 {
			t.Errorf("sent %v, want the one that is left twice more", sent)
		}
		asleep = true
		time.Sleep(time.Hour)
		if sent[1] != 2*7 {
			t.Errorf("sent %v although it may not", sent)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSenderMAC: a claim names the MAC that the NIC has when it is told, and
// waits for it.
func TestSenderMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mac [6]byte
		var told [][6]byte
		send := func(_ int, frames [][]byte) error {
			told = append(told, [6]byte(frames[0][6:12]))
			return nil
		}
		s := NewSender(send, func(int) [6]byte { return mac }, func(due []Claim) []Claim { return due }, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		go s.Run(ctx)
		s.Claim(Claim{Addr: addrN(1), Link: 1})
		time.Sleep(5 * time.Second)
		if told != nil {
			t.Errorf("told with %x, while the MAC isn't known", told)
		}
		mac[0] = 2
		time.Sleep(soon)
		synctest.Wait()
		if len(told) != 1 || told[0] != mac {
			t.Errorf("told with %x, want it once with %x", told, mac)
		}
		mac[0] = 4
		time.Sleep(5 * time.Second)
		if len(told) != 4 || told[3] != mac {
			t.Errorf("told with %x, want it repeated with %x", told, mac)
		}
	})
}
