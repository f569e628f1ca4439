// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// BenchmarkPrograms measures one packet through a program, by the kernel's
// clock: ns/packet is what counts. A run doesn't restore the packet, so these
// are packets that come out as they went in.
func BenchmarkPrograms(b *testing.B) {
	n := newNode(b)
	n.put("endpoints", objects.Addr(podA2), objects.MapEndpoint{Ifindex: 11, Mac: macA2, HostMac: macA})
	ack := packet.TCP{Src: 80, Dst: 4000, Flags: packet.ACK}
	eth := packet.Eth{Src: macA, Dst: macA2}
	n.identity(podA, client, 80, 4000)
	n.identity(podA6, cli6, 80, 4000)
	for _, c := range []struct {
		name, program string
		verdict       uint32
		frame         []byte
	}{
		{"established-v4", "tc_pod_in", redirect, packet.Build(eth, packet.IPv4{Src: podA, Dst: client}, ack)},
		{"established-v6", "tc_pod_in", redirect, packet.Build(eth, packet.IPv6{Src: podA6, Dst: cli6}, ack)},
		{"pod-to-pod", "tc_pod_in", redirect, packet.Build(eth, packet.IPv4{Src: podA, Dst: podA2}, ack)},
		{"pod-to-outside", "tc_pod_in", pass, packet.Build(eth, packet.IPv4{Src: podA, Dst: neighbour}, ack)},
		{"network-to-host", "tc_uplink_in", pass, packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeA}, ack)},
		{"host-to-network", "tc_uplink_out", pass, packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: client}, packet.TCP{Src: 81, Dst: 4000, Flags: packet.ACK})},
		{"not-ip", "tc_uplink_in", pass, packet.Build(packet.Eth{Src: routerMAC, Dst: nicMAC, Type: 0x88cc}, packet.Payload("lldp"))},
	} {
		b.Run(c.name, func(b *testing.B) {
			verdict, took, err := n.programs[c.program].Benchmark(c.frame, max(b.N, 10_000), b.ResetTimer)
			if err != nil || verdict != c.verdict {
				b.Fatalf("verdict %s, %v, want %s", verdictName(verdict), err, verdictName(c.verdict))
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}

// identity puts in a confirmed flow that changes nothing and goes on by frame.
func (n *node) identity(src, dst netip.Addr, sport, dport uint16) {
	n.t.Helper()
	n.put("flows", objects.MapFlowKey{Saddr: objects.Addr(src), Daddr: objects.Addr(dst), Sport: objects.Port(sport), Dport: objects.Port(dport), Proto: 6},
		objects.MapFlow{
			Saddr: objects.Addr(src), Daddr: objects.Addr(dst), Sport: objects.Port(sport), Dport: objects.Port(dport),
			Way: uint8(objects.MapFlowWayWAY_FRAME), Flags: uint8(objects.MapFlowFlagsFLOW_REPLY), Ifindex: nicB, Dmac: macA2, Smac: macA,
			Seen: n.ticks(),
		})
}

// ticks is the programs' clock.
func (n *node) ticks() uint32 {
	n.t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.t.Fatal(err)
	}
	return uint32(now.Nano() >> 30)
}
