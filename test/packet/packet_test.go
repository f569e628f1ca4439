// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	macA, macB = MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	v4A, v4B   = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	v6A, v6B   = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

func TestBuildIsWhatAnotherDecoderReads(t *testing.T) {
	eth := Eth{Src: macA, Dst: macB}
	ip4, ip6 := IPv4{Src: v4A, Dst: v4B}, IPv6{Src: v6A, Dst: v6B}
	quoted := Build(eth, ip4, TCP{Src: 80, Dst: 40000}, Payload("abcdefgh"))
	for _, tt := range []struct {
		name   string
		layers []Layer
		want   string
	}{
		{"arp", []Layer{eth, ARP{Op: ARPRequest, SenderMAC: macA, SenderIP: v4A, TargetIP: v4B}}, "Ethernet ARP"},
		{"tcp4", []Layer{eth, ip4, TCP{Src: 1, Dst: 2, Flags: SYN, MSS: 1460}, Payload("x")}, "Ethernet IPv4 TCP Payload"},
		{"tcp6", []Layer{eth, ip6, TCP{Src: 1, Dst: 2, Flags: SYN | ACK}, Payload("xy")}, "Ethernet IPv6 TCP Payload"},
		{"udp4 with odd payload", []Layer{eth, ip4, UDP{Src: 1, Dst: 2}, Payload("xyz")}, "Ethernet IPv4 UDP Payload"},
		{"udp6", []Layer{eth, ip6, UDP{Src: 1, Dst: 2}, Payload("xyz")}, "Ethernet IPv6 UDP Payload"},
		{"icmp4 quoting", []Layer{eth, ip4, ICMP{Type: 3, Code: 4, Rest: 1400}, Quote(quoted, 28)}, "Ethernet IPv4 ICMPv4 Payload"},
		{"icmp6", []Layer{eth, ip6, ICMPv6{Type: 128, Rest: 1 << 16}, Payload("ping")}, "Ethernet IPv6 ICMPv6 ICMPv6Echo Payload"},
		{"ns", []Layer{eth, IPv6{Src: v6A, Dst: v6B, HopLimit: 255}, NDP{Type: NeighborSolicitation, Target: v6B, LinkAddr: macA}}, "Ethernet IPv6 ICMPv6 ICMPv6NeighborSolicitation"},
		{"vxlan", []Layer{eth, ip4, UDP{Src: 50000, Dst: 4789, NoChecksum: true}, VXLAN{VNI: 20546}, eth, ip6, TCP{Src: 1, Dst: 2}}, "Ethernet IPv4 UDP VXLAN Ethernet IPv6 TCP"},
		{"options", []Layer{eth, IPv4{Src: v4A, Dst: v4B, Options: []byte{1, 1, 1, 0}}, UDP{Src: 1, Dst: 2}}, "Ethernet IPv4 UDP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := gopacket.NewPacket(Build(tt.layers...), layers.LayerTypeEthernet, gopacket.DecodeOptions{})
			var got []string
			for _, l := range p.Layers() {
				got = append(got, l.LayerType().String())
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("layers: got %q, want %q", strings.Join(got, " "), tt.want)
			}
			setNetworkLayers(p)
			if err, wrong := p.VerifyChecksums(); err != nil || len(wrong) > 0 {
				t.Errorf("checksums: %v %v", err, wrong)
			}
			if p.Metadata().Truncated {
				t.Error("a length is wrong")
			}
		})
	}
}

// setNetworkLayers tells each transport layer which IP header its checksum covers.
func setNetworkLayers(p gopacket.Packet) {
	var network gopacket.NetworkLayer
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case gopacket.NetworkLayer:
			network = l
		case interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}:
			_ = l.SetNetworkLayerForChecksum(network)
		}
	}
}

func TestDiffNamesTheField(t *testing.T) {
	want := Build(Eth{Src: macA, Dst: macB}, IPv4{Src: v4A, Dst: v4B}, UDP{Src: 1, Dst: 53}, Payload("q"))
	got := Build(Eth{Src: macA, Dst: macB}, IPv4{Src: v4A, Dst: v4B}, UDP{Src: 1, Dst: 54}, Payload("q"))
	if d := Diff(want, want); d != "" {
		t.Errorf("diff of equal frames: %s", d)
	}
	if d := Diff(want, got); !strings.Contains(d, "UDP DstPort=54") {
		t.Errorf("diff doesn't name the port:\n%s", d)
	}
}
