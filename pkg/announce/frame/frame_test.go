// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/patchbay-net/patchbay/test/packet"
)

var (
	mac   = [6]byte{2, 0, 0, 0, 0, 9}
	other = [6]byte{2, 0, 0, 0, 0, 7}
	v4    = netip.MustParseAddr("192.0.2.10")
	v6    = netip.MustParseAddr("fd00::1:2:3")
)

func TestFrames(t *testing.T) {
	all := packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zero4, zero6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	group, groupMAC := netip.MustParseAddr("ff02::1:ff02:3"), packet.MAC{0x33, 0x33, 0xff, 2, 0, 3}
	tests := []struct {
		name      string
		got, want []byte
	}{
		{"ARP probe", Probe(v4, mac), packet.Build(packet.Eth{Src: mac, Dst: all}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: zero4, TargetIP: v4})},
		{"ARP request", Request(v4, netip.MustParseAddr("192.0.2.1"), mac),
			packet.Build(packet.Eth{Src: mac, Dst: all}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: netip.MustParseAddr("192.0.2.1"), TargetIP: v4})},
		{"ARP announcement", Announcements(v4, mac)[0], packet.Build(packet.Eth{Src: mac, Dst: all}, packet.ARP{Op: 1, SenderMAC: mac, SenderIP: v4, TargetIP: v4})},
		{"ARP announcement as a reply", Announcements(v4, mac)[1],
			packet.Build(packet.Eth{Src: mac, Dst: all}, packet.ARP{Op: 2, SenderMAC: mac, SenderIP: v4, TargetMAC: mac, TargetIP: v4})},
		{"unsolicited advertisement", Announcements(v6, mac)[0],
			packet.Build(packet.Eth{Src: mac, Dst: packet.MAC{0x33, 0x33, 0, 0, 0, 1}}, packet.IPv6{Src: v6, Dst: netip.MustParseAddr("ff02::1"), HopLimit: 255},
				packet.NDP{Type: 136, Flags: 0x20000000, Target: v6, LinkAddr: mac})},
		{"solicitation", Request(v6, netip.MustParseAddr("fd00::1"), mac),
			packet.Build(packet.Eth{Src: mac, Dst: groupMAC}, packet.IPv6{Src: netip.MustParseAddr("fd00::1"), Dst: group, HopLimit: 255},
				packet.NDP{Type: 135, Target: v6, LinkAddr: mac})},
		{"duplicate address detection", Probe(v6, mac),
			packet.Build(packet.Eth{Src: mac, Dst: groupMAC}, packet.IPv6{Src: zero6, Dst: group, HopLimit: 255}, packet.NDP{Type: 135, Target: v6})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := packet.Diff(tt.want, tt.got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// seen are frames with what they say, if anything.
func seen() []struct {
	name  string
	frame []byte
	want  Sighting
	ok    bool
} {
	arp := func(a ARP) []byte { return a.Frame(broadcast()) }
	na := func(flags byte, options ...byte) []byte {
		return icmp6(mac, v6, allNodes(), append(append([]byte{NeighborAdvert, 0, 0, 0, flags, 0, 0, 0}, v6.AsSlice()...), options...))
	}
	router := netip.MustParseAddr("192.0.2.1")
	return []struct {
		name  string
		frame []byte
		want  Sighting
		ok    bool
	}{
		{"ARP probe", Probe(v4, mac), Sighting{Addr: v4, MAC: mac, Probe: true}, true},
		{"ARP announcement", Announcements(v4, mac)[0], Sighting{Addr: v4, MAC: mac}, true},
		{"ARP announcement as a reply", Announcements(v4, mac)[1], Sighting{Addr: v4, MAC: mac, Answer: true}, true},
		{"question by its owner", arp(ARP{Op: ARPRequest, SenderMAC: other, Sender: v4, Target: router}), Sighting{Addr: v4, MAC: other}, true},
		{"answer", arp(ARP{Op: ARPReply, SenderMAC: other, Sender: v4, TargetMAC: mac, Target: netip.IPv4Unspecified()}), Sighting{Addr: v4, MAC: other, Answer: true}, true},
		{"reply of nobody", arp(ARP{Op: ARPReply, SenderMAC: other, Sender: netip.IPv4Unspecified(), Target: v4}), Sighting{}, false},
		{"reverse ARP", arp(ARP{Op: 3, SenderMAC: other, Sender: v4, Target: v4}), Sighting{}, false},
		{"sender without a MAC", arp(ARP{Op: ARPRequest, Sender: v4, Target: router}), Sighting{}, false},
		{"detection", Probe(v6, mac), Sighting{Addr: v6, MAC: mac, Probe: true}, true},
		{"unsolicited advertisement", Announcements(v6, mac)[0], Sighting{Addr: v6, MAC: mac}, true},
		{"solicited advertisement", na(0x60, 2, 1, 2, 0, 0, 0, 0, 7), Sighting{Addr: v6, MAC: other, Answer: true}, true},
		{"advertisement without an option", na(0), Sighting{Addr: v6, MAC: mac}, true},
		{"advertisement with an option of no length", na(0, 2, 0, 2, 0, 0, 0, 0, 7), Sighting{Addr: v6, MAC: mac}, true},
		{"solicitation by its owner", Request(netip.MustParseAddr("fd00::9"), v6, other), Sighting{Addr: v6, MAC: other}, true},
		{"short", Probe(v4, mac)[:30], Sighting{}, false},
		{"short advertisement", Announcements(v6, mac)[0][:60], Sighting{}, false},
		{"nothing", nil, Sighting{}, false},
	}
}

func TestParse(t *testing.T) {
	for _, tt := range seen() {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := Parse(tt.frame); got != tt.want || ok != tt.ok {
				t.Errorf("want %+v %v, got %+v %v", tt.want, tt.ok, got, ok)
			}
		})
	}
}

// TestFilter runs the kernel's programs on the frames: they pass what says
// something of an address inside, and nothing that says something of another.
func TestFilter(t *testing.T) {
	prefixes := []string{
		"192.0.2.10/32", "192.0.2.8/30", "192.0.2.0/24", "0.0.0.0/0", "192.0.2.11/32", "10.0.0.0/8",
		"fd00::1:2:3/128", "fd00::1:2:0/118", "fd00::/64", "::/0", "fd00::1:2:4/128", "fd01::/16",
	}
	for _, text := range prefixes {
		prefix := netip.MustParsePrefix(text)
		vm := machine(t, prefix)
		for _, tt := range seen() {
			if len(tt.frame) < ethernetLen || (tt.frame[12] == 0x08) != prefix.Addr().Is4() {
				continue // the socket's protocol doesn't let it that far
			}
			n, err := vm.Run(tt.frame)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.ok && prefix.Contains(tt.want.Addr) && n == 0:
				t.Errorf("%s with %s: want it passed", tt.name, prefix)
			case tt.ok && !prefix.Contains(tt.want.Addr) && n > 0:
				t.Errorf("%s with %s: want it kept back", tt.name, prefix)
			}
		}
	}
}

func machine(t *testing.T, prefix netip.Prefix) *bpf.VM {
	t.Helper()
	raw, err := Filter(prefix)
	if err != nil {
		t.Fatal(err)
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("want it disassembled")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestCovering(t *testing.T) {
	tests := []struct {
		addrs []string
		want  string
	}{
		{[]string{"192.0.2.10"}, "192.0.2.10/32"},
		{[]string{"192.0.2.10", "192.0.2.9"}, "192.0.2.8/30"},
		{[]string{"192.0.2.10", "10.0.0.1"}, "0.0.0.0/0"},
		{[]string{"fd00::1", "fd00::ff00"}, "fd00::/112"},
	}
	for _, tt := range tests {
		var addrs []netip.Addr
		for _, a := range tt.addrs {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if got := Covering(addrs...); got.String() != tt.want {
			t.Errorf("%v: want %s, got %s", tt.addrs, tt.want, got)
		}
	}
	if Covering().IsValid() {
		t.Error("want no prefix of no addresses")
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range seen() {
		f.Add(tt.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := Parse(b); ok && !s.Addr.IsValid() {
			t.Errorf("%x: %+v", b, s)
		}
	})
}
