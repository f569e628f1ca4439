// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/packet"
)

const ms = time.Millisecond

func TestJudge(t *testing.T) {
	stream := func(lost ...int) (out []Attempt) {
		for i := range 100 {
			a := Attempt{Begun: time.Duration(i) * tick, Took: ms}
			for _, l := range lost {
				if l == i {
					a.Error = "timeout"
				}
			}
			out = append(out, a)
		}
		return out
	}
	for _, tt := range []struct {
		name string
		lost []int
		want time.Duration
	}{
		{"none", nil, 0},
		{"one", []int{7}, 10 * ms},
		{"several with good ones between", []int{7, 9, 20}, 140 * ms},
		{"the last", []int{99}, 10 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge("x", stream(tt.lost...)); got.Span != tt.want || got.Lost != len(tt.lost) || got.Done != 100 {
				t.Errorf("outage: got %v, want %v", got, tt.want)
			}
		})
	}
	slow := []Attempt{{Took: ms}, {Begun: tick, Took: time.Second, Resent: 1}, {Begun: 2 * tick, Took: time.Second}, {Begun: 3 * tick, Took: 300 * ms, Resent: 1}}
	if got := judge("x", slow); got.Lost != 1 || got.Span != tick {
		t.Errorf("one sent again after a second: got %v, want it alone lost", got)
	}
}

// judged is a lab of two nodes with one address, and a question that both answered.
func judged(asked time.Duration, a, b []span) *Lab {
	macs := [][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	l := &Lab{machines: []*Machine{{Name: "a", mac: macs[0], reached: a}, {Name: "b", mac: macs[1], reached: b}}}
	l.Observer = &Observer{lab: l, questions: []question{{netip.MustParseAddr("192.0.2.1"), asked, macs}}}
	return l
}

func TestDoubles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		asked time.Duration
		a, b  []span
		want  int
	}{
		{"both there all along", 1000 * ms, []span{{0, 0}}, []span{{0, 0}}, 1},
		{"one back for a moment", 1000 * ms, []span{{0, 0}}, []span{{0, 500 * ms}, {850 * ms, 0}}, 0},
		{"one back for too long", 1000 * ms, []span{{0, 0}}, []span{{0, 500 * ms}, {750 * ms, 0}}, 1},
		{"just before the cut was healed", 1000 * ms, []span{{0, 0}}, []span{{0, 500 * ms}, {1001 * ms, 0}}, 0},
		{"before the span", 5000 * ms, []span{{0, 0}}, []span{{0, 0}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := judged(tt.asked, tt.a, tt.b).Doubles(0, 2*time.Second); len(got) != tt.want {
				t.Errorf("doubles: got %v, want %d", got, tt.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	mac, other := packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 9}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::1")
	asker, asker6 := netip.MustParseAddr("10.77.1.2"), netip.MustParseAddr("fd00:77::102")
	for _, tt := range []struct {
		name  string
		frame []byte
		want  statement
	}{
		{"ARP reply", packet.Build(packet.Eth{Src: mac, Dst: other}, packet.ARP{Op: 2, SenderMAC: mac, SenderIP: v4, TargetMAC: other, TargetIP: asker}),
			statement{addr: v4, mac: mac, to: asker}},
		{"gratuitous ARP request", packet.Build(packet.Eth{Src: mac, Dst: other}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: v4, TargetIP: v4}),
			statement{addr: v4, mac: mac}},
		{"advertisement", packet.Build(packet.Eth{Src: mac, Dst: other}, packet.IPv6{Src: v6, Dst: asker6, HopLimit: 255}, packet.NDP{Type: 136, Target: v6, LinkAddr: mac}),
			statement{addr: v6, mac: mac, to: asker6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parse(tt.frame)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(statement{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || !ok {
				t.Errorf("statement (-want +got):\n%s", diff)
			}
		})
	}
	for name, frame := range map[string][]byte{
		"a probe":  packet.Build(packet.Eth{Src: mac, Dst: other}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: netip.IPv4Unspecified(), TargetIP: v4}),
		"a packet": packet.Build(packet.Eth{Src: mac, Dst: other}, packet.IPv4{Src: v4, Dst: asker}, packet.UDP{Src: 1, Dst: 2}),
	} {
		if _, ok := parse(frame); ok {
			t.Errorf("%s: got a statement", name)
		}
	}
}

func TestAnswerFindsItsQuestion(t *testing.T) {
	addr, mac := netip.MustParseAddr("fd00::1"), [6]byte{2}
	o := &Observer{addrs: []netip.Addr{addr}}
	for range 70_000 { // more than the numbers there are
		o.questions = append(o.questions, question{addr: addr})
	}
	for _, seq := range []int{69_999, 66_000, 65_000} {
		from := netip.MustParseAddr(asker6).As16()
		from[14], from[15] = byte(seq>>8), byte(seq)
		o.answered(statement{addr: addr, mac: mac, to: netip.AddrFrom16(from)})
		if len(o.questions[seq].by) != 1 {
			t.Errorf("question %d: no answer", seq)
		}
	}
}
