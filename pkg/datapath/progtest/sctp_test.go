// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

var initChunk = packet.Payload{packet.InitChunk, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1}

// SCTP's checksum covers the ports, and none of the addresses.
func TestSCTP(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.endpoint(podA26, here, macA2)
	n.service(1, service{addr: clusIP, port: 80, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 80)}})
	n.service(2, service{addr: clusIP, port: 81, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 8080)}})
	n.service(3, service{addr: clusIP6, port: 81, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA26, 8080)}})
	v4, v6 := packet.IPv4{Src: podA, Dst: clusIP}, packet.IPv6{Src: podA6, Dst: clusIP6}
	there4, there6 := packet.IPv4{Src: podA, Dst: podA2}, packet.IPv6{Src: podA6, Dst: podA26}
	data := packet.Payload("chunks, of an odd length")
	fragment := packet.IPv4{Src: podA, Dst: clusIP, Protocol: 132, ID: 7, MF: true}
	whole := packet.Build(fromA, v4, packet.SCTP{Src: 4001, Dst: 81, Tag: 7}, data)
	n.steps([]step{
		{name: "same port", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 80}, initChunk),
			out: packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 80}, initChunk)},
		{name: "another port", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 81}, initChunk),
			out: packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 8080}, initChunk)},
		{name: "its answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.SCTP{Src: 8080, Dst: 4000, Tag: 7}, data),
			out: packet.Build(toA, packet.IPv4{Src: clusIP, Dst: podA}, packet.SCTP{Src: 81, Dst: 4000, Tag: 7}, data)},
		{name: "checksum left to the device", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 81, Tag: 7, NoChecksum: true}, data),
			out: packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 8080, Tag: 7, NoChecksum: true}, data)},
		{name: "frame padded", program: "tc_pod_in", verdict: redirect,
			in:  append(packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 81, Tag: 7}), make([]byte, 14)...),
			out: append(packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 8080, Tag: 7}), make([]byte, 14)...)},
		{name: "v6", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v6, packet.SCTP{Src: 4000, Dst: 81}, initChunk),
			out: packet.Build(toA2, there6, packet.SCTP{Src: 4000, Dst: 8080}, initChunk)},
		{name: "a fragment, another port", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_PROTOCOL,
			in: packet.Build(fromA, fragment, packet.Payload(whole[34:34+24]))},
		{name: "shorter than its header", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_MALFORMED,
			in: packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP, Protocol: 132}, packet.Payload(whole[34:34+11]))},
		{name: "ABORT begins nothing", program: "tc_pod_in", verdict: drop, reason: objects.MapDropReasonDROP_NO_FLOW,
			in: packet.Build(fromA, v4, packet.SCTP{Src: 4009, Dst: 81, Tag: 7}, packet.Payload{packet.AbortChunk, 0, 0, 4})},
	})
	// Through the tunnel it goes in pieces outside, rather than in fragments.
	n.service(4, service{addr: clusIP, port: 82, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podC, 8080)}})
	large := packet.Payload(bytes.Repeat([]byte{0}, 1468))
	n.steps([]step{{name: "larger than the tunnel", program: "tc_pod_in", verdict: redirect,
		in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP, DF: true}, packet.SCTP{Src: 4000, Dst: 82, Tag: 7}, large),
		out: packet.Build(fromA, packet.IPv4{Src: podA, Dst: podC, DF: true}, packet.SCTP{Src: 4000, Dst: 8080, Tag: 7}, large)}})
	// An INIT begins anew where the backend left or the association was aborted.
	n.put("backends", uint32(2), objects.MapBackend{Addr: objects.Addr(podA2), Port: objects.Port(8080), Service: 2, Flags: 2})
	n.put("backends", uint32(9), objects.MapBackend{Addr: objects.Addr(podA2), Port: objects.Port(9090), Service: 2})
	n.put("slots", uint32(2*64), uint32(9))
	n.steps([]step{
		{name: "goes on though the backend left", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 81, Tag: 7}, data),
			out: packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 8080, Tag: 7}, data)},
		{name: "INIT", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, v4, packet.SCTP{Src: 4000, Dst: 81}, initChunk),
			out: packet.Build(toA2, there4, packet.SCTP{Src: 4000, Dst: 9090}, initChunk)},
	})
}

// The checksum by difference is the one made of the whole packet, for every
// length that IP has. Of the long ones only the beginning is sent: the rest of the
// packet, that it counts for, is looked at by nobody.
func TestSCTPChecksum(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.endpoint(podA26, here, macA2)
	n.service(1, service{addr: clusIP, port: 81, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 8080)}})
	n.service(2, service{addr: clusIP6, port: 81, proto: 132, scopes: cluster, backends: []netip.AddrPort{ap(podA26, 8080)}})
	random := rand.New(rand.NewPCG(3, 4))
	var lengths []int
	for length := 12; length < 400; length++ {
		lengths = append(lengths, length)
	}
	for bits := 9; bits <= 16; bits++ {
		lengths = append(lengths, 1<<bits-21, 1<<bits-20-random.IntN(1<<(bits-1)))
	}
	for range 200 {
		lengths = append(lengths, 400+random.IntN(65535-20-400))
	}
	for _, length := range append(lengths, 65535-20) {
		data := make(packet.Payload, length-12)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		if len(data) > 0 {
			data[0] = packet.DataChunk
		}
		in := packet.SCTP{Src: uint16(1024 + random.IntN(60000)), Dst: 81, Tag: random.Uint32() | 1}
		out := in
		out.Dst = 8080
		for _, c := range []struct{ in, out []byte }{
			{packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, in, data), packet.Build(toA2, packet.IPv4{Src: podA, Dst: podA2}, out, data)},
			{packet.Build(fromA, packet.IPv6{Src: podA6, Dst: clusIP6}, in, data), packet.Build(toA2, packet.IPv6{Src: podA6, Dst: podA26}, out, data)},
		} {
			sent := min(len(c.in), 1400)
			r := n.run("tc_pod_in", c.in[:sent])
			if r.verdict != redirect || !bytes.Equal(r.frame, c.out[:sent]) {
				t.Fatalf("%d bytes: verdict %s, dropped %v, frame (-want +got):\n%s", length, verdictName(r.verdict), r.dropped, packet.Diff(c.out[:100], r.frame[:100]))
			}
		}
	}
}
