// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
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

func TestFrames(t *testing.T) {
	mac := packet.MAC{2, 0, 0, 0, 0, 9}
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("fd00::10")
	broadcast, multicast := packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, packet.MAC{0x33, 0x33, 0, 0, 0, 1}
	want := [][]byte{
		packet.Build(packet.Eth{Src: mac, Dst: broadcast}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: v4, TargetIP: v4}),
		packet.Build(packet.Eth{Src: mac, Dst: broadcast}, packet.ARP{Op: 2, SenderMAC: mac, SenderIP: v4, TargetMAC: mac, TargetIP: v4}),
		packet.Build(packet.Eth{Src: mac, Dst: multicast}, packet.IPv6{Src: v6, Dst: netip.MustParseAddr("ff02::1"), HopLimit: 255},
			packet.NDP{Type: 136, Flags: 0x20000000, Target: v6, LinkAddr: mac}),
	}
	for i, got := range append(frames(v4, mac), frames(v6, mac)...) {
		if diff := packet.Diff(want[i], got); diff != "" {
			t.Errorf("frame %d: %s", i, diff)
		}
	}
}

func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSender(slog.New(slog.DiscardHandler))
		sent := make(map[string]int)
		s.send = func(link int, frames [][]byte) error {
			sent[fmt.Sprint(link)] += len(frames)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		one, two := Claim{Addr: addrN(1), Link: 1}, Claim{Addr: netip.MustParseAddr("fd00::1"), Link: 2}
		s.Set([]Claim{one})
		time.Sleep(time.Minute)
		s.Set([]Claim{one, two})
		time.Sleep(time.Minute)
		s.Again(two.Addr)
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if sent["1"] != 2*burstCount || sent["2"] != 2*burstCount {
			t.Errorf("sent %v, want %d frames each", sent, 2*burstCount)
		}
	})
}

func TestTransmit(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		peer.Addr(t, "eth0", "192.0.2.1/24")
		peer.Sysctl(t, "net/ipv4/conf/eth0/arp_accept", "1")
		s := NewSender(slog.Default())
		go s.Run(t.Context())
		s.Set([]Claim{{netip.MustParseAddr("192.0.2.50"), here.Index(t, "eth0"), here.MAC(t, "eth0")}})
		netlab.WaitFor(t, 5*time.Second, "the neighbour learns the address", func() error {
			if out := peer.Exec(t, "ip", "neigh", "show", "192.0.2.50"); !strings.Contains(out, "lladdr") {
				return fmt.Errorf("neighbours: %q", out)
			}
			return nil
		})
	})
}
