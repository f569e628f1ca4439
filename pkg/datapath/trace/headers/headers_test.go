// SPDX-License-Identifier: Apache-2.0

package headers_test

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/test/packet"
)

var (
	macA, macB   = packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	v4a, v4b     = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	v6a, v6b     = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	eth          = packet.Eth{Src: macA, Dst: macB}
	syn          = packet.Build(eth, packet.IPv4{Src: v4a, Dst: v4b}, packet.TCP{Src: 1000, Dst: 80, Flags: packet.SYN})
	datagram     = packet.Build(eth, packet.IPv6{Src: v6a, Dst: v6b}, packet.UDP{Src: 1000, Dst: 53}, packet.Payload("question"))
	solicitation = packet.Build(eth, packet.IPv6{Src: v6a, Dst: v6b}, packet.ICMPv6{Type: 135})
	whoHas       = packet.Build(eth, packet.ARP{Op: packet.ARPRequest, SenderMAC: macA, SenderIP: v4a, TargetIP: v4b})
	isAt         = packet.Build(eth, packet.ARP{Op: packet.ARPReply, SenderMAC: macA, SenderIP: v4a, TargetIP: v4b})
)

func TestText(t *testing.T) {
	for _, test := range []struct {
		frame []byte
		want  string
	}{
		{syn, "TCP 192.0.2.1:1000 → 192.0.2.2:80 SYN"},
		{datagram, "UDP [2001:db8::1]:1000 → [2001:db8::2]:53"},
		{solicitation, "ICMPv6 2001:db8::1 → 2001:db8::2 type 135 code 0 (neighbour solicitation)"},
		{whoHas, "ARP: who has 192.0.2.2? says 192.0.2.1"},
		{isAt, "ARP: 192.0.2.1 is at 02:00:00:00:00:01"},
		{syn[:20], "20 bytes, not IP"},
	} {
		if got := headers.Read(test.frame).String(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// What is rewritten is what would have been built so.
func TestRewrite(t *testing.T) {
	to := netip.MustParseAddrPort("198.51.100.9:8080")
	want := packet.Build(eth, packet.IPv4{Src: v4a, Dst: to.Addr()}, packet.TCP{Src: 1000, Dst: 8080, Flags: packet.SYN})
	if got := headers.Rewrite(syn, netip.AddrPort{}, to); string(got) != string(want) {
		t.Errorf("got %s, want %s", packet.String(got), packet.String(want))
	}
	to = netip.MustParseAddrPort("[2001:db8::9]:5353")
	want = packet.Build(eth, packet.IPv6{Src: to.Addr(), Dst: v6b}, packet.UDP{Src: 5353, Dst: 53}, packet.Payload("question"))
	if got := headers.Rewrite(datagram, to, netip.AddrPort{}); string(got) != string(want) {
		t.Errorf("got %s, want %s", packet.String(got), packet.String(want))
	}
}

// No frame, however it is made, is read beyond its end.
func FuzzRead(f *testing.F) {
	for _, frame := range [][]byte{syn, datagram, solicitation, whoHas} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h := headers.Read(frame)
		if _ = h.String(); !h.Src.IsValid() || frame[12] == 0x81 {
			return
		}
		headers.Forward(frame)
		headers.Rewrite(frame, h.Dst, h.Src)
	})
}
