// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// step is one packet through one program, and what becomes of it.
type step struct {
	name    string
	program string
	in, out []byte
	verdict uint32
	reason  objects.MapDropReason
}

func (n *node) steps(steps []step) {
	n.t.Helper()
	for _, s := range steps {
		out := s.out
		if out == nil {
			out = s.in
		}
		sub := n.in(n.t)
		before := n.t.Failed()
		sub.wantDropped(sub.run(s.program, s.in), s.verdict, out, s.reason)
		if !before && n.t.Failed() {
			n.t.Fatalf("in step %q", s.name)
		}
	}
}

var (
	cluster  = []objects.MapScope{objects.MapScopeSCOPE_CLUSTER}
	external = []objects.MapScope{objects.MapScopeSCOPE_CLUSTER, objects.MapScopeSCOPE_EXTERNAL}
	fromA    = packet.Eth{Src: macA, Dst: hostMAC}
	fromA2   = packet.Eth{Src: macA2, Dst: hostMAC}
	toA      = packet.Eth{Src: hostMAC, Dst: macA}
	toA2     = packet.Eth{Src: hostMAC, Dst: macA2}
	clusIP6  = netip.MustParseAddr("fd00:96::10")
	podA26   = netip.MustParseAddr("fd00:244::6")
)

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// A pod's packets to a ClusterIP, and the answers, per packet.
func TestClusterIP(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.endpoint(podA26, here, macA2)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 8080)}})
	n.service(2, service{addr: clusIP, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 5353)}})
	n.service(3, service{addr: clusIP6, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA26, 8080)}})
	n.service(4, service{addr: clusIP6, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA26, 53)}})
	v4, v6 := packet.IPv4{Src: podA, Dst: clusIP}, packet.IPv6{Src: podA6, Dst: clusIP6}
	data := packet.Payload("question")

	n.steps([]step{
		{name: "SYN", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "SYN-ACK", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "UDP", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.UDP{Src: 4000, Dst: 53}, data),
			out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, packet.UDP{Src: 4000, Dst: 5353}, data)},
		{name: "UDP without checksum", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.UDP{Src: 4000, Dst: 53, NoChecksum: true}, data),
			out: packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, packet.UDP{Src: 4000, Dst: 5353, NoChecksum: true}, data)},
		{name: "UDP's answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.UDP{Src: 5353, Dst: 4000}, data),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.UDP{Src: 53, Dst: 4000}, data)},
		{name: "SYN v6", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v6, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "UDP v6, same port", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v6, packet.UDP{Src: 4000, Dst: 53}, data),
			out: packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26}, packet.UDP{Src: 4000, Dst: 53}, data)},
		{name: "answer by the stack", program: "tc_pod_out", verdict: pass,
			in:  packet.Build(toA, packet.IPv4{Src: podA2, Dst: podA}, packet.UDP{Src: 5353, Dst: 4000}, data),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.UDP{Src: 53, Dst: 4000}, data)},
		{name: "plain packet to the client", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.UDP{Src: 9, Dst: 4000}, data),
			out: packet.Build(toA, packet.IPv4{Src: podA2, Dst: podA}, packet.UDP{Src: 9, Dst: 4000}, data)},
	})
	if got := n.count("flows"); got != 2 {
		t.Errorf("%d confirmed entries, want the answered UDP flow's 2", got)
	}
}

// A flow is confirmed by the client's answer to the answer, and dies by RST.
func TestConfirmation(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 80)}})
	send := func(flags uint8) {
		n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 80, Flags: flags}))
	}
	answer := func(flags uint8) {
		n.run("tc_pod_in", packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: flags}))
	}
	want := func(what string, confirmed, fresh int) {
		t.Helper()
		if c, f := n.count("flows"), n.count("flows_new"); c != confirmed || f != fresh {
			t.Errorf("after %s: %d confirmed, %d new, want %d, %d", what, c, f, confirmed, fresh)
		}
	}
	send(packet.SYN)
	want("SYN", 0, 2)
	answer(packet.SYN | packet.ACK)
	want("SYN-ACK", 0, 2)
	send(packet.ACK)
	want("ACK", 2, 0)
	send(packet.FIN | packet.ACK)
	send(packet.SYN)
	want("FIN, SYN", 2, 0)
	answer(packet.RST)
	send(packet.SYN)
	want("RST, SYN", 0, 2)

	answer(packet.SYN | packet.ACK)
	send(packet.ACK)
	n.put("backends", uint32(1), objects.MapBackend{Addr: objects.Addr(podA2), Port: objects.Port(80), Service: 1, Flags: 2})
	send(packet.ACK)
	want("ACK to a backend that is leaving", 2, 0)
	send(packet.SYN)
	want("SYN to a backend that is leaving", 0, 2)
}

func TestWithoutBackends(t *testing.T) {
	n := newNode(t)
	reject := objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_REJECT)}
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, fe: reject})
	n.service(2, service{addr: clusIP, port: 80, proto: 17, scopes: cluster, fe: reject})
	n.service(3, service{addr: clusIP, port: 81, proto: 6, scopes: cluster})
	n.service(4, service{addr: clusIP6, port: 80, proto: 6, scopes: cluster, fe: reject})
	n.service(5, service{addr: clusIP6, port: 80, proto: 17, scopes: cluster, fe: reject})
	v4, v6 := packet.IPv4{Src: podA, Dst: clusIP}, packet.IPv6{Src: podA6, Dst: clusIP6}
	back4, back6 := packet.IPv4{Src: clusIP, Dst: podA, DF: true}, packet.IPv6{Src: clusIP6, Dst: podA6}
	syn := packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN, Seq: 99}
	rst := packet.TCP{Src: 80, Dst: 4000, Flags: packet.RST | packet.ACK, Ack: 100}
	udp := packet.UDP{Src: 4000, Dst: 80}
	data := packet.Payload("question")
	datagram, datagram6 := packet.Build(fromA, v4, udp, data), packet.Build(fromA, v6, udp, data)
	n.steps([]step{
		{name: "TCP", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: packet.Build(fromA, v4, syn), out: noWindow(packet.Build(toA, back4, rst))},
		{name: "TCP, frame padded", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: append(packet.Build(fromA, v4, syn), make([]byte, 6)...), out: noWindow(packet.Build(toA, back4, rst))},
		{name: "TCP v6", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: packet.Build(fromA, v6, syn), out: noWindow(packet.Build(toA, back6, rst))},
		{name: "UDP", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: datagram, out: packet.Build(toA, back4, packet.ICMP{Type: 3, Code: 3}, packet.Quote(datagram, 28))},
		{name: "UDP v6", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: datagram6, out: packet.Build(toA, back6, packet.ICMPv6{Type: 1, Code: 4}, packet.Quote(datagram6, 48))},
		{name: "to be dropped", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_NO_BACKEND,
			in: packet.Build(fromA, v4, packet.TCP{Src: 4000, Dst: 81, Flags: packet.SYN})},
		{name: "unknown port", program: "tc_pod_in", verdict: redirect, reason: objects.MapDropReasonDROP_NO_SERVICE,
			in:  packet.Build(fromA, v4, packet.TCP{Src: 4000, Dst: 82, Flags: packet.ACK, Ack: 7}),
			out: noWindow(packet.Build(toA, back4, packet.TCP{Src: 82, Dst: 4000, Flags: packet.RST, Seq: 7}))},
		{name: "RST is not answered", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_NO_SERVICE,
			in: packet.Build(fromA, v4, packet.TCP{Src: 4000, Dst: 82, Flags: packet.RST})},
		{name: "RST begins nothing", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_NO_FLOW,
			in: packet.Build(fromA, v4, packet.TCP{Src: 4000, Dst: 80, Flags: packet.RST})},
	})
}

// noWindow sets a TCP header's window to zero, which the builder can't say.
func noWindow(frame []byte) []byte {
	at := 14 + 20
	if frame[12] == 0x86 {
		at = 14 + 40
	}
	sum := uint32(binary.BigEndian.Uint16(frame[at+16:])) + uint32(binary.BigEndian.Uint16(frame[at+14:]))
	binary.BigEndian.PutUint16(frame[at+16:], uint16(sum)+uint16(sum>>16))
	binary.BigEndian.PutUint16(frame[at+14:], 0)
	return frame
}

// A pod that is its Service's only backend sees the Service as its client.
func TestHairpin(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA, 8080)}})
	n.steps([]step{
		{name: "there", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "back", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: 8080, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
	})
}

// One client port to two frontends with one backend: the second gets another
// source port, and its answers find back.
func TestPortClash(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	other := clusIP.Next()
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 80)}})
	n.service(2, service{addr: other, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 80)}})
	syn := packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN}
	n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, syn))
	r := n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: other}, syn))
	port := binary.BigEndian.Uint16(r.frame[34:])
	if r.verdict != redirect || port == 4000 {
		t.Fatalf("verdict %s, source port %d, want a redirect from another port", verdictName(r.verdict), port)
	}
	n.want(r, redirect, packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, packet.TCP{Src: port, Dst: 80, Flags: packet.SYN}))
	n.steps([]step{
		{name: "answer to the second", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 80, Dst: port, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: other, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
		{name: "answer to the first", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK}),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.TCP{Src: 80, Dst: 4000, Flags: packet.SYN | packet.ACK})},
	})
}

// A pod asks a backend directly from the port of its flow by packets: closed,
// that one gives way; open, the direct one gets another port.
func TestDirectAfterPackets(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 8080)}})
	n.service(2, service{addr: clusIP, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 5353)}})
	data := packet.Payload("question")
	there, back := packet.IPv4{Src: podA, Dst: podA2}, packet.IPv4{Src: podA2, Dst: podA}
	tcp := func(dst netip.Addr, port uint16, flags uint8) []byte {
		return packet.Build(fromA, packet.IPv4{Src: podA, Dst: dst}, packet.TCP{Src: 4000, Dst: port, Flags: flags})
	}
	answer := func(flags uint8) packet.TCP { return packet.TCP{Src: 8080, Dst: 4000, Flags: flags} }
	n.run("tc_pod_in", tcp(clusIP, 80, packet.SYN))
	n.run("tc_pod_in", packet.Build(fromA2, back, answer(packet.SYN|packet.ACK)))
	n.run("tc_pod_in", tcp(clusIP, 80, packet.RST))
	n.steps([]step{
		{name: "SYN", program: "tc_pod_in", verdict: redirect, in: tcp(podA2, 8080, packet.SYN),
			out: packet.Build(toA2, there, packet.TCP{Src: 4000, Dst: 8080, Flags: packet.SYN})},
		{name: "SYN-ACK", program: "tc_pod_in", verdict: redirect, in: packet.Build(fromA2, back, answer(packet.SYN|packet.ACK)),
			out: packet.Build(toA, back, answer(packet.SYN|packet.ACK))},
	})
	n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.UDP{Src: 4000, Dst: 53}, data))
	n.run("tc_pod_in", packet.Build(fromA2, back, packet.UDP{Src: 5353, Dst: 4000}, data))
	r := n.run("tc_pod_in", packet.Build(fromA, there, packet.UDP{Src: 4000, Dst: 5353}, data))
	port := binary.BigEndian.Uint16(r.frame[34:])
	n.want(r, redirect, packet.Build(toA2, there, packet.UDP{Src: port, Dst: 5353}, data))
	if port == 4000 {
		t.Error("the direct flow kept its port, want another")
	}
	n.steps([]step{
		{name: "direct answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, back, packet.UDP{Src: 5353, Dst: port}, data),
			out: packet.Build(toA, back, packet.UDP{Src: 5353, Dst: 4000}, data)},
		{name: "the Service's answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, back, packet.UDP{Src: 5353, Dst: 4000}, data),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.UDP{Src: 53, Dst: 4000}, data)},
	})
}

// Fragments follow the first one; the transport header is in that one alone.
func TestFragments(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: clusIP, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 5353)}})
	whole := packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.UDP{Src: 4000, Dst: 53}, packet.Payload("sixteen bytes ..and the others.."))
	first, rest := packet.Payload(whole[34:34+24]), packet.Payload(whole[34+24:])
	after := packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, packet.UDP{Src: 4000, Dst: 5353}, packet.Payload("sixteen bytes ..and the others.."))
	v4 := func(dst netip.Addr, id, offset uint16, more bool) packet.IPv4 {
		return packet.IPv4{Src: podA, Dst: dst, Protocol: 17, ID: id, Offset: offset, MF: more}
	}
	n.steps([]step{
		{name: "later one first", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_FRAGMENT,
			in: packet.Build(fromA, v4(clusIP, 7, 24, false), rest)},
		{name: "first", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4(clusIP, 7, 0, true), first),
			out: packet.Build(toA2, v4(podA2, 7, 0, true), packet.Payload(after[34:34+24]))},
		{name: "later", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4(clusIP, 7, 24, false), rest),
			out: packet.Build(toA2, v4(podA2, 7, 24, false), rest)},
		{name: "pod to pod", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4(podA2, 8, 24, false), rest),
			out: packet.Build(toA2, v4(podA2, 8, 24, false), rest)},
	})
}

// With affinity a client stays with its backend whatever its port.
func TestAffinity(t *testing.T) {
	n := newNode(t)
	backends := []netip.AddrPort{ap(podA2, 80), ap(podB, 80), ap(podC, 80)}
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, fe: objects.MapFrontend{Affinity: 60}, backends: backends})
	n.service(2, service{addr: clusIP, port: 81, proto: 6, scopes: cluster, backends: backends})
	reached := func(port uint16) int {
		seen := map[string]bool{}
		for src := 100 * port; src < 100*port+40; src++ {
			r := n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: src, Dst: port, Flags: packet.SYN}))
			if r.verdict != redirect {
				t.Fatalf("verdict %s, dropped %v", verdictName(r.verdict), r.dropped)
			}
			seen[string(r.frame[30:34])] = true
		}
		return len(seen)
	}
	if got := reached(80); got != 1 {
		t.Errorf("with affinity %d backends were reached, want 1", got)
	}
	if got := reached(81); got != 3 {
		t.Errorf("without affinity %d backends were reached, want 3", got)
	}
}

// Once affinity's time is over, a client's next flow may go to any backend, and
// the ones after it stay with that. Just before, it stays.
func TestAffinityOver(t *testing.T) {
	n := newNode(t)
	backends := []netip.AddrPort{ap(podA2, 80), ap(podB, 80), ap(podC, 80)}
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, fe: objects.MapFrontend{Affinity: 60}, backends: backends})
	key := objects.MapAffinityKey{Client: objects.Addr(podA), Service: 1}
	src := uint16(2000)
	after := func(ticks uint32) string {
		t.Helper()
		var v objects.MapAffinity
		if err := n.maps["affinities"].Lookup(key, &v); err == nil {
			v.Seen -= ticks
			n.put("affinities", key, v)
		}
		src++
		r := n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: src, Dst: 80, Flags: packet.SYN}))
		if r.verdict != redirect {
			t.Fatalf("verdict %s, dropped %v", verdictName(r.verdict), r.dropped)
		}
		return string(r.frame[30:34])
	}
	seen := map[string]bool{}
	for range 40 {
		now := after(60) // a tick is longer than a second
		seen[now] = true
		if next := after(50); next != now {
			t.Fatalf("10 s before its time was over the client went to %v, before to %v", []byte(next), []byte(now))
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d backends were reached, want 3", len(seen))
	}
}

// The addresses of Services answer echo requests.
func TestEcho(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 80)}})
	n.service(2, service{addr: vip6, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA26, 80)}})
	data := packet.Payload("0123456789")
	n.steps([]step{
		{name: "ClusterIP", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.ICMP{Type: 8, Rest: 0x00070001}, data),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.ICMP{Type: 0, Rest: 0x00070001}, data)},
		{name: "LoadBalancer v6", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(packet.Eth{Src: routerMAC, Dst: nicMAC}, packet.IPv6{Src: cli6, Dst: vip6}, packet.ICMPv6{Type: 128, Rest: 0x00070001}, data),
			out: packet.Build(packet.Eth{Src: nicMAC, Dst: routerMAC}, packet.IPv6{Src: vip6, Dst: cli6}, packet.ICMPv6{Type: 129, Rest: 0x00070001}, data)},
	})
}

// The same for IPv6, whose fragments have an extension header.
func TestFragments6(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA26, here, macA2)
	n.service(1, service{addr: clusIP6, port: 53, proto: 17, scopes: cluster, backends: []netip.AddrPort{ap(podA26, 5353)}})
	data := packet.Payload("sixteen bytes ..and the others..")
	whole := packet.Build(fromA, packet.IPv6{Src: podA6, Dst: clusIP6}, packet.UDP{Src: 4000, Dst: 53}, data)
	after := packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26}, packet.UDP{Src: 4000, Dst: 5353}, data)
	fragment := func(offset uint16, more bool) packet.Fragment6 {
		return packet.Fragment6{Offset: offset, More: more, ID: 7, NextHeader: 17}
	}
	n.steps([]step{
		{name: "first", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv6{Src: podA6, Dst: clusIP6, NextHeader: 44}, fragment(0, true), packet.Payload(whole[54:54+24])),
			out: packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26, NextHeader: 44}, fragment(0, true), packet.Payload(after[54:54+24]))},
		{name: "later", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv6{Src: podA6, Dst: clusIP6, NextHeader: 44}, fragment(24, false), packet.Payload(whole[54+24:])),
			out: packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26, NextHeader: 44}, fragment(24, false), packet.Payload(whole[54+24:]))},
	})
}
