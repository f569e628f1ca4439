// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// age lets all flows be so many ticks older.
func (n *node) age(ticks uint32) {
	n.t.Helper()
	for _, table := range []string{"flows", "flows_new"} {
		var key objects.MapFlowKey
		var flow objects.MapFlow
		found := map[objects.MapFlowKey]objects.MapFlow{}
		for it := n.maps[table].Iterate(); it.Next(&key, &flow); {
			found[key] = flow
		}
		for key, flow := range found {
			flow.Seen -= ticks
			n.put(table, key, flow)
		}
	}
}

// A stream is one flow as long as it runs, whichever side sends: a log that nobody
// answers, a camera whose client says no more after the first word.
func TestStreams(t *testing.T) {
	backends := []netip.AddrPort{ap(podA, 5004), ap(podA2, 5004)}
	data := packet.Payload("data")
	for _, tt := range []struct {
		name   string
		pauses uint32 // ticks between packets
		answer bool
	}{
		{"one way, unanswered", 25, false},
		{"one way, back", 150, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.endpoint(podA2, here, macA2)
			n.service(1, service{addr: vip, port: 514, proto: 17, scopes: external, backends: backends})
			there := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.UDP{Src: 4000, Dst: 514}, data)
			first := n.run("tc_uplink_in", there)
			backend, _ := netip.AddrFromSlice(first.frame[30:34])
			back := packet.Build(packet.Eth{Src: map[netip.Addr]packet.MAC{podA: macA, podA2: macA2}[backend], Dst: hostMAC},
				packet.IPv4{Src: backend, Dst: client}, packet.UDP{Src: 5004, Dst: 4000}, data)
			out := packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client}, packet.UDP{Src: 514, Dst: 4000}, data)
			if tt.answer {
				n.in(t).want(n.run("tc_pod_in", back), redirect, out)
			}
			for i := range 20 {
				n.age(tt.pauses)
				if tt.answer {
					n.in(t).want(n.run("tc_pod_in", back), redirect, out)
					continue
				}
				// A backend that comes moves no stream.
				if i == 10 {
					n.put("backends", uint32(9), objects.MapBackend{Addr: objects.Addr(podB), Port: objects.Port(5004), Service: 1})
					n.put("slots", uint32(66), uint32(9))
					n.put("services", uint32(1), uint64(64)|uint64(3)<<32)
				}
				if got, _ := netip.AddrFromSlice(n.run("tc_uplink_in", there).frame[30:34]); got != backend {
					t.Fatalf("packet %d went to %s, those before to %s", i, got, backend)
				}
			}
			if got, _ := netip.AddrFromSlice(n.run("tc_uplink_in", there).frame[30:34]); got != backend {
				t.Errorf("the client's next packet went to %s, before to %s", got, backend)
			}
		})
	}
}

// With udp-mode packet, a sender that uses one port reaches all backends, none that
// has gone, and the answers come from the Service's address.
func TestPerPacket(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	each := objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_PACKET)}
	backends := []netip.AddrPort{ap(podA, 5004), ap(podA2, 5004)}
	n.service(1, service{addr: vip, port: 514, proto: 17, scopes: external, fe: each, backends: backends})
	there := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.UDP{Src: 514, Dst: 514}, packet.Payload("data"))
	reached := func() map[netip.Addr]int {
		seen := map[netip.Addr]int{}
		for range 100 {
			r := n.run("tc_uplink_in", there)
			backend, _ := netip.AddrFromSlice(r.frame[30:34])
			if seen[backend]++; r.verdict != redirect {
				t.Fatalf("verdict %s, dropped %v", verdictName(r.verdict), r.dropped)
			}
		}
		return seen
	}
	if seen := reached(); seen[podA] < 20 || seen[podA2] < 20 {
		t.Errorf("backends reached: %v, want each about 50 times", seen)
	}
	out := packet.Build(toRouter, packet.IPv4{Src: vip, Dst: client}, packet.UDP{Src: 514, Dst: 514})
	for range 2 {
		n.want(n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: client}, packet.UDP{Src: 5004, Dst: 514})), redirect, out)
		n.want(n.run("tc_pod_in", packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: client}, packet.UDP{Src: 5004, Dst: 514})), redirect, out)
		if seen := reached(); seen[podA] < 20 || seen[podA2] < 20 {
			t.Errorf("after answers, backends reached: %v, want each about 50 times", seen)
		}
	}
	n.service(1, service{addr: vip, port: 514, proto: 17, scopes: external, fe: each, backends: backends[:1]})
	if seen := reached(); seen[podA] != 100 {
		t.Errorf("after one has gone, backends reached: %v", seen)
	}
}

// The fragments of a datagram reach the same backend.
func TestPerPacketFragments(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.service(1, service{addr: vip, port: 514, proto: 17, scopes: external, fe: objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_PACKET)},
		backends: []netip.AddrPort{ap(podA, 5004), ap(podA2, 5004)}})
	whole := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.UDP{Src: 514, Dst: 514}, packet.Payload("sixteen bytes ..and the others.."))
	for id := range uint16(20) {
		var seen []netip.Addr
		for _, f := range []packet.IPv4{{MF: true}, {Offset: 24}} {
			f.Src, f.Dst, f.Protocol, f.ID = client, vip, 17, id
			from, to := 34, 34+24
			if f.Offset > 0 {
				from, to = to, len(whole)
			}
			backend, _ := netip.AddrFromSlice(n.run("tc_uplink_in", packet.Build(fromRouter, f, packet.Payload(whole[from:to]))).frame[30:34])
			seen = append(seen, backend)
		}
		if seen[0] != seen[1] || seen[0] != podA && seen[0] != podA2 {
			t.Fatalf("the fragments went to %v, want one backend", seen)
		}
	}
}

// Datagrams of their own ports are spread over all backends.
func TestOneShots(t *testing.T) {
	n := newNode(t)
	n.service(1, service{addr: vip, port: 514, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA, 5004), ap(podB, 5004), ap(podC, 5004)}})
	seen := map[netip.Addr]int{}
	for port := uint16(4000); port < 4150; port++ {
		r := n.run("tc_uplink_in", packet.Build(fromRouter, packet.IPv4{Src: client, Dst: vip}, packet.UDP{Src: port, Dst: 514}))
		backend, _ := netip.AddrFromSlice(r.frame[30:34])
		seen[backend]++
	}
	for backend, count := range seen {
		if count < 25 || len(seen) != 3 {
			t.Errorf("%s got %d of 150, want about 50 each of three", backend, count)
		}
	}
}
