// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// small gives a node that hasn't loaded its programs yet a smaller table.
func (n *node) small(table string, entries uint32) {
	n.t.Helper()
	spec, err := objects.LoadMap()
	if err != nil {
		n.t.Fatal(err)
	}
	spec.Maps[table].MaxEntries = entries
	m, err := ebpf.NewMap(spec.Maps[table])
	if err != nil {
		n.t.Fatal(err)
	}
	n.whole.Cleanup(func() { m.Close() })
	n.maps[table] = m
}

// user is one client outside with a flow.
type user struct {
	src     netip.AddrPort
	backend netip.Addr
}

func (n *node) ask(u user, flags uint8) (netip.Addr, bool) {
	n.t.Helper()
	r := n.run("tc_uplink_in", packet.Build(fromRouter, packet.IPv4{Src: u.src.Addr(), Dst: vip}, packet.TCP{Src: u.src.Port(), Dst: 80, Flags: flags}))
	backend, _ := netip.AddrFromSlice(r.frame[30:34])
	return backend, r.verdict == redirect && len(r.dropped) == 0
}

// begin has a client's handshake done.
func (n *node) begin(u user) user {
	n.t.Helper()
	var ok bool
	if u.backend, ok = n.ask(u, packet.SYN); !ok {
		n.t.Fatalf("%s: no flow began", u.src)
	}
	eth, program := fromA, "tc_pod_in"
	if u.backend == podA2 {
		eth = fromA2
	}
	n.run(program, packet.Build(eth, packet.IPv4{Src: u.backend, Dst: u.src.Addr()}, packet.TCP{Src: 8080, Dst: u.src.Port(), Flags: packet.SYN | packet.ACK}))
	n.goesOn(u)
	return u
}

// goesOn sends a packet of the flow, and its backend's answer.
func (n *node) goesOn(u user) {
	n.t.Helper()
	if backend, ok := n.ask(u, packet.ACK); !ok || backend != u.backend {
		n.t.Fatalf("%s went to %s, before to %s", u.src, backend, u.backend)
	}
	eth := fromA
	if u.backend == podA2 {
		eth = fromA2
	}
	r := n.run("tc_pod_in", packet.Build(eth, packet.IPv4{Src: u.backend, Dst: u.src.Addr()}, packet.TCP{Src: 8080, Dst: u.src.Port(), Flags: packet.ACK}))
	if src, _ := netip.AddrFromSlice(r.frame[26:30]); src != vip || r.verdict != redirect {
		n.t.Fatalf("the answer to %s is from %s, want the Service's address", u.src, src)
	}
}

func outsider(number int) user {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0xc6120000+uint32(number)) // 198.18.0.0/15
	return user{src: netip.AddrPortFrom(netip.AddrFrom4(b), uint16(1024+number%50000))}
}

// flood sends 20,000 first packets, each of another client.
func (n *node) flood() {
	n.t.Helper()
	loaded := n.program("tc_uplink_in")
	out := make([]byte, 256)
	n.ns.Run(n.t, func() {
		for i := range 20000 {
			u := outsider(1000 + i)
			verdict, err := loaded.Run(&ebpf.RunOptions{
				Data:    packet.Build(fromRouter, packet.IPv4{Src: u.src.Addr(), Dst: vip}, packet.TCP{Src: u.src.Port(), Dst: 80, Flags: packet.SYN}),
				DataOut: out,
			})
			if err != nil || verdict != redirect {
				n.t.Fatalf("packet %d of the flood: verdict %s, %v", i, verdictName(verdict), err)
			}
		}
	})
}

func newFullNode(t *testing.T, tables map[string]uint32) *node {
	n := newNode(t)
	n.settings = map[string]any{"flow_rate": uint32(1 << 30)} // its own test has it
	n.endpoint(podA2, here, macA2)
	for table, entries := range tables {
		n.small(table, entries)
	}
	n.service(1, service{addr: vip, port: 80, proto: 6, scopes: external, backends: []netip.AddrPort{ap(podA, 8080), ap(podA2, 8080)}})
	return n
}

// A flood of first packets, many times what the tables hold, ends no flow that was
// established before.
func TestFlood(t *testing.T) {
	n := newFullNode(t, map[string]uint32{"flows": 256, "flows_new": 1024})
	var users []user
	for i := range 100 {
		users = append(users, n.begin(outsider(i)))
	}
	n.flood()
	for _, u := range users {
		n.goesOn(u)
	}
	if got := n.count("flows"); got != 200 {
		t.Errorf("%d confirmed entries, want 200", got)
	}
}

// Datagrams flood as well, and so do first packets that another node sends on.
func TestFloodUDP(t *testing.T) {
	n := newFullNode(t, map[string]uint32{"flows": 256, "flows_new": 1024})
	n.service(2, service{addr: vip, port: 53, proto: 17, scopes: external, backends: []netip.AddrPort{ap(podA, 5353)}})
	frame := func(src netip.AddrPort) []byte {
		return packet.Build(fromRouter, packet.IPv4{Src: src.Addr(), Dst: vip}, packet.UDP{Src: src.Port(), Dst: 53})
	}
	back := func(src netip.AddrPort, eth packet.Eth, port uint16, from netip.Addr) (in, out []byte) {
		return packet.Build(fromA, packet.IPv4{Src: podA, Dst: src.Addr()}, packet.UDP{Src: 5353, Dst: src.Port()}),
			packet.Build(eth, packet.IPv4{Src: from, Dst: src.Addr()}, packet.UDP{Src: port, Dst: src.Port()})
	}
	forwarded := func(src netip.AddrPort) []byte {
		return packet.Build(fromPeer, packet.IPv4{Src: src.Addr(), Dst: podA}, packet.UDP{Src: src.Port(), Dst: 5353})
	}
	answered := func() {
		t.Helper()
		for i := range 50 {
			in, out := back(outsider(i).src, toRouter, 53, vip)
			n.want(n.run("tc_pod_in", in), redirect, out)
			in, out = back(outsider(i+100).src, toPeer, 5353, podA)
			n.want(n.run("tc_pod_in", in), redirect, out)
		}
	}
	for i := range 50 {
		n.run("tc_uplink_in", frame(outsider(i).src))
		n.run("tc_uplink_in", forwarded(outsider(i+100).src))
	}
	answered()
	for i := range 1200 {
		n.run("tc_uplink_in", frame(outsider(1000+i).src))
		n.run("tc_uplink_in", forwarded(outsider(1000+i).src))
	}
	answered()
}

// What anybody can make a CPU do is bounded: above the rate no flow begins, and
// those that there are go on.
func TestFlowRate(t *testing.T) {
	n := newFullNode(t, nil)
	n.settings = map[string]any{"flow_rate": uint32(1)}
	u, before := n.begin(outsider(0)), n.drops()
	begun, first := 0, time.Now()
	for i := range 1000 {
		if _, ok := n.ask(outsider(1000+i), packet.SYN); ok {
			begun++
		}
	}
	refused := n.drops()[objects.MapDropReasonDROP_FLOW_RATE] - before[objects.MapDropReasonDROP_FLOW_RATE]
	periods := int(time.Since(first)>>24) + 2
	if begun > periods*runtime.NumCPU() || begun+int(refused) != 1000 || refused == 0 {
		t.Errorf("of 1,000 flows %d began and %d were refused, want at most one for each CPU in each of %d periods", begun, refused, periods)
	}
	n.goesOn(u)
	begins := false // in another period, for whoever asks again
	for last := n.ticks(); !begins && n.ticks() < last+3; {
		_, begins = n.ask(outsider(5000), packet.SYN)
	}
	if !begins {
		t.Error("no flow begins in a later period")
	}
}

// With the table of established flows full, those in it go on, and further flows
// are served from the table of new ones: if a flood takes one from there, its
// client's next packet is sent to the same backend again, by its hash.
func TestFlowsFull(t *testing.T) {
	n := newFullNode(t, map[string]uint32{"flows": 64, "flows_new": 1024})
	var users []user
	for i := range 100 {
		users = append(users, n.begin(outsider(i)))
	}
	if got := n.count("flows"); got != 64 {
		t.Fatalf("%d confirmed entries, want the 64 that there is room for", got)
	}
	var full uint32
	if err := n.maps["moved"].Lookup(uint32(objects.MapMoveMOVE_FULL), &full); err != nil || full < 68 {
		t.Errorf("%d flows found no room, %v, want at least 68", full, err)
	}
	for _, u := range users {
		n.goesOn(u)
	}
	n.flood()
	for _, u := range users {
		n.goesOn(u)
	}
}
