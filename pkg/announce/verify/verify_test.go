// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

func TestSegmentIsAFrame(t *testing.T) {
	from, to := packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	for _, addrs := range [][2]string{{"192.0.2.1", "192.0.2.9"}, {"fd00::1", "fd00::9"}} {
		src, dst := netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
		s := segment{src: netip.AddrPortFrom(src, 61000), dst: netip.AddrPortFrom(dst, 80), seq: 7, flags: flagSYN}
		var ip packet.Layer = packet.IPv4{Src: src, Dst: dst, DF: true}
		if src.Is6() {
			ip = packet.IPv6{Src: src, Dst: dst}
		}
		want := packet.Build(packet.Eth{Src: from, Dst: to}, ip, packet.TCP{Src: 61000, Dst: 80, Seq: 7, Flags: packet.SYN, Window: 0xffff})
		if diff := packet.Diff(want, s.frame(from, to)); diff != "" {
			t.Errorf("frame: %s", diff)
		}
		if got, ok := parseSegment(want); !ok || got != s {
			t.Errorf("parsed: got %+v, want %+v", got, s)
		}
		for n := range want {
			parseSegment(want[:n]) // must not panic
		}
	}
}

// TestLook looks at a machine with a listener, and at what isn't there.
func TestLook(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		for _, tt := range []struct{ own, other, free string }{
			{"192.0.2.1/24", "192.0.2.9/24", "192.0.2.77"}, {"fd00::1/64", "fd00::9/64", "fd00::77"},
		} {
			here.Addr(t, "eth0", tt.own)
			peer.Addr(t, "eth0", tt.other)
			from := From{here.Index(t, "eth0"), netip.MustParsePrefix(tt.own).Addr()}
			addr := netip.MustParsePrefix(tt.other).Addr()
			err := peer.Do(func() error {
				l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 80).String())
				if err == nil {
					t.Cleanup(func() { l.Close() })
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Look(t.Context(), from, Target{addr, []uint16{80, 81}})
			want := Seen{MACs: [][6]byte{peer.MAC(t, "eth0")}, Ports: []Port{{80, Accepted, 1}, {81, Refused, 1}}}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s (-want +got): %v\n%s", addr, err, diff)
			}
			got, err = Look(t.Context(), from, Target{netip.MustParseAddr(tt.free), []uint16{80}})
			if diff := cmp.Diff(Seen{}, got); diff != "" || err != nil {
				t.Errorf("%s (-want +got): %v\n%s", tt.free, err, diff)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	base := Result{Addr: addr, By: "b", Owner: "a", AnsweredBy: []string{"a"}}
	with := func(change func(*Result)) Result {
		r := base
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name   string
		result Result
		fronts []front
		want   string
	}{
		{"well", base, nil, ""},
		{"nobody", with(func(r *Result) { r.AnsweredBy = nil }), nil, "nobody answers"},
		{"another", with(func(r *Result) { r.AnsweredBy = []string{"c"} }), nil, "answered for by c, not by a"},
		{"two", with(func(r *Result) { r.AnsweredBy = []string{"a", "c"} }), nil, "by a and c"},
		{"no connection", with(func(r *Result) { r.Ports = []Port{{80, Silent, 5}} }), []front{{80, true}}, "answers no connection"},
		{"own backends", with(func(r *Result) { r.Ports = []Port{{80, Silent, 5}} }), []front{{80, false}}, ""},
		{"refused", with(func(r *Result) { r.Ports = []Port{{80, Refused, 1}} }), []front{{80, true}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge(tt.result, tt.fronts); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("problem: got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFrontends(t *testing.T) {
	addr, from := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.1")
	entry := func(port uint16, change func(*service.Entry)) service.Entry {
		e := service.Entry{Frontend: service.Frontend{Address: service.Address{IP: addr, Port: port, Protocol: service.TCP}}}
		change(&e)
		return e
	}
	backends := func(local ...bool) func(*service.Entry) {
		return func(e *service.Entry) {
			for _, l := range local {
				e.Backends = append(e.Backends, service.Backend{Local: l})
			}
		}
	}
	entries := []service.Entry{
		entry(80, backends(true, false, false)), entry(80, backends()), entry(81, backends(true)),
		entry(82, func(e *service.Entry) { e.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }),
		entry(83, func(e *service.Entry) { e.Frontend.Protocol = service.UDP }),
		entry(84, func(e *service.Entry) { e.Empty = service.Drop }), entry(85, backends(false)),
	}
	want := []front{{80, true}, {81, false}, {84, false}}
	if diff := cmp.Diff(want, frontends(entries, addr, from, 0), cmp.AllowUnexported(front{})); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]front{{85, true}}, frontends(entries, addr, from, 85), cmp.AllowUnexported(front{})); diff != "" {
		t.Errorf("one (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]front{{99, false}}, frontends(entries, addr, from, 99), cmp.AllowUnexported(front{})); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

// lab is a Verifier on node b of three, and what it is told.
type lab struct {
	*Verifier
	address holder.Address
	seen    Seen
	err     error
	looks   []time.Time
}

func newLab() *lab {
	subnet := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	l := &lab{seen: Seen{MACs: [][6]byte{{2, 0, 0, 0, 0, 1}}}}
	l.address.Holder, l.address.Epoch = "a", 1
	for i := byte(1); announce.Owner(l.address.Addr, []string{"b", "c"}) != "b"; i++ { // one that b is to verify
		l.address.Addr = netip.AddrFrom4([4]byte{192, 0, 2, i})
	}
	l.Verifier = New(Options{
		Node: "b", Log: slog.New(slog.DiscardHandler),
		Addresses: func() []holder.Address { return []holder.Address{l.address} },
		Standings: func() map[string]holder.Standing {
			st := holder.Standing{Alive: true, Subnets: subnet}
			return map[string]holder.Standing{"a": st, "b": st, "c": st}
		},
		View: func() heartbeat.View {
			return heartbeat.View{Peers: map[string]heartbeat.Peer{"a": {State: heartbeat.State{NICs: []heartbeat.NIC{{MAC: [6]byte{2, 0, 0, 0, 0, 1}}}}}}}
		},
	})
	l.look = func(context.Context, From, Target) (Seen, error) {
		l.looks = append(l.looks, time.Now())
		return l.seen, l.err
	}
	l.objects = parts.Objects{NICs: []nic.NIC{{Link: netdev.Link{Index: 2, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.250/24")}}, Role: nic.External}}}
	return l
}

func (l *lab) reported() []v1alpha1.AddressVerification {
	var s v1alpha1.NodeNetworkStateStatus
	l.Part().Report(&s)
	return s.Verified
}

func TestVerifyAfterMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		wait(4 * time.Second)
		if len(l.looks) != 1 {
			t.Errorf("after the first sight: looked %d times, want once", len(l.looks))
		}
		l.address.Epoch++
		wait(4 * time.Second)
		if len(l.looks) != 2 {
			t.Errorf("after a move: looked %d times, want twice", len(l.looks))
		}
		wait(2 * every)
		if n := len(l.looks); n < 3 || n > 5 {
			t.Errorf("after %v: looked %d times", 2*every, n)
		}
		want := []v1alpha1.AddressVerification{{Address: l.address.Addr.String(), Node: "a", Reachable: true}}
		if diff := cmp.Diff(want, l.reported()); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}

		l.address.Epoch++
		l.seen = Seen{}
		wait(4 * time.Second)
		if got := l.reported(); len(got) != 0 {
			t.Errorf("failed once: reported %v, want nothing yet", got)
		}
		wait(2 * again)
		if got := l.reported(); len(got) != 1 || got[0].Reachable || !strings.Contains(got[0].Message, "nobody answers") {
			t.Errorf("failed twice: reported %v", got)
		}
		l.seen = Seen{MACs: [][6]byte{{2, 0, 0, 0, 0, 1}}}
		wait(2 * again)
		if got := l.reported(); len(got) != 1 || !got[0].Reachable {
			t.Errorf("well again: reported %v", got)
		}
		l.address.Holder = "b"
		wait(2 * interval)
		if got := l.reported(); len(got) != 0 {
			t.Errorf("our own: reported %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAnswer(t *testing.T) {
	l := newLab()
	ask := func(body string) (r Result) {
		t.Helper()
		if err := json.Unmarshal(l.Answer([]byte(body)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask(fmt.Sprintf(`{"addr": "%s"}`, l.address.Addr)); r.Problem != "" || r.AnsweredBy[0] != "a" || r.By != "b" {
		t.Errorf("answer: got %+v", r)
	}
	if r := ask("?"); !strings.Contains(r.Problem, "doesn't understand") {
		t.Errorf("nonsense: got %+v", r)
	}
	if r := ask(`{"addr": "198.51.100.1"}`); !strings.Contains(r.Problem, "no external NIC") {
		t.Errorf("another network: got %+v", r)
	}
	l.err = errors.New("no such thing")
	if r := ask(fmt.Sprintf(`{"addr": "%s"}`, l.address.Addr)); !strings.Contains(r.Problem, "could not look") {
		t.Errorf("no NIC: got %+v", r)
	}
}
