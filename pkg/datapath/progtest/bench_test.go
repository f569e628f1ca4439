// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"net/netip"
	"testing"
	"time"

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
	n.identity(ap(podA, 80), ap(client, 4000), objects.MapFlowWayWAY_FRAME)
	n.identity(ap(podA6, 80), ap(cli6, 4000), objects.MapFlowWayWAY_FRAME)
	n.identity(ap(client, 4000), ap(vip, 80), objects.MapFlowWayWAY_POD)
	n.identity(ap(cli6, 4000), ap(vip6, 80), objects.MapFlowWayWAY_POD)
	toVIP := packet.Eth{Src: macA, Dst: nicMAC}
	there := packet.TCP{Src: 4000, Dst: 80, Flags: packet.ACK}
	for _, c := range []struct {
		name, program string
		verdict       uint32
		frame         []byte
	}{
		{"client-v4", "tc_uplink_in", redirect, packet.Build(toVIP, packet.IPv4{Src: client, Dst: vip}, there)},
		{"client-v6", "tc_uplink_in", redirect, packet.Build(toVIP, packet.IPv6{Src: cli6, Dst: vip6}, there)},
		{"answer-v4", "tc_pod_in", redirect, packet.Build(eth, packet.IPv4{Src: podA, Dst: client}, ack)},
		{"answer-v6", "tc_pod_in", redirect, packet.Build(eth, packet.IPv6{Src: podA6, Dst: cli6}, ack)},
		{"pod-to-pod", "tc_pod_in", redirect, packet.Build(eth, packet.IPv4{Src: podA, Dst: podA2}, ack)},
		{"pod-to-outside", "tc_pod_in", pass, packet.Build(eth, packet.IPv4{Src: podA, Dst: neighbour}, ack)},
		{"network-to-host", "tc_uplink_in", pass, packet.Build(fromRouter, packet.IPv4{Src: client, Dst: nodeA}, ack)},
		{"host-to-network", "tc_uplink_out", pass, packet.Build(toRouter, packet.IPv4{Src: nodeA, Dst: client}, packet.TCP{Src: 81, Dst: 4000, Flags: packet.ACK})},
		{"not-ip", "tc_uplink_in", pass, packet.Build(packet.Eth{Src: routerMAC, Dst: nicMAC, Type: 0x88cc}, packet.Payload("lldp"))},
	} {
		b.Run(c.name, func(b *testing.B) {
			var verdict uint32
			var took time.Duration
			loaded := n.program(c.program)
			err := n.ns.Do(func() (err error) {
				verdict, took, err = loaded.Benchmark(c.frame, max(b.N, 10_000), b.ResetTimer)
				return err
			})
			if err != nil || verdict != c.verdict {
				b.Fatalf("verdict %s, %v, want %s", verdictName(verdict), err, verdictName(c.verdict))
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}

// identity puts in a confirmed flow that changes nothing, not even the MACs.
func (n *node) identity(src, dst netip.AddrPort, way objects.MapFlowWay) {
	n.t.Helper()
	dmac := macA2
	if way == objects.MapFlowWayWAY_POD {
		dmac = nicMAC
	}
	key := objects.MapFlowKey{
		Saddr: objects.Addr(src.Addr()), Daddr: objects.Addr(dst.Addr()),
		Sport: objects.Port(src.Port()), Dport: objects.Port(dst.Port()), Proto: 6,
	}
	n.put("flows", key, objects.MapFlow{
		Saddr: key.Saddr, Daddr: key.Daddr, Sport: key.Sport, Dport: key.Dport,
		Way: uint8(way), Flags: uint8(objects.MapFlowFlagsFLOW_REPLY), Ifindex: nicB, Dmac: dmac, Smac: macA,
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
