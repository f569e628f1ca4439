// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// mix is bpf/lib/addr.h's.
func mix(h uint64) uint32 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return uint32(h >> 32)
}

func halves(a netip.Addr) (q [2]uint64) {
	b := a.As16()
	return [2]uint64{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

// oracle is the slot that a flow falls on, worked out without BPF.
func oracle(src, dst netip.AddrPort, proto uint8, affinity bool, slots int) int {
	s, d := halves(src.Addr()), halves(dst.Addr())
	var hash uint32
	if affinity {
		hash = mix(s[0]*0x9e3779b97f4a7c15 ^ s[1])
	} else {
		a := (s[0] ^ d[0]) * 0x9e3779b97f4a7c15
		a ^= s[1]*0xff51afd7ed558ccd + d[1]
		ports := uint64(objects.Port(src.Port()))<<32 | uint64(objects.Port(dst.Port()))<<8 | uint64(proto)
		hash = mix(a ^ ports*0xc4ceb9fe1a85ec53)
	}
	return int(uint64(hash) * uint64(slots) >> 32)
}

// The choice is what the oracle says, for every client, and spreads evenly.
func TestChoose(t *testing.T) {
	n := newNode(t)
	n.load(objects.LoadChoose)
	var backends []netip.AddrPort
	for a := netip.MustParseAddr("10.244.1.1"); len(backends) < 7; a = a.Next() {
		backends = append(backends, ap(a, 80))
	}
	v4, v6 := ap(vip, 80), ap(vip6, 80)
	n.service(1, service{addr: vip, port: 80, proto: 17, scopes: cluster, backends: backends})
	n.service(2, service{addr: vip6, port: 80, proto: 17, scopes: cluster, backends: backends, fe: objects.MapFrontend{Affinity: 60}})
	first := []int{1, 1 + len(backends)}
	chosen := make([]int, len(backends))
	random := rand.New(rand.NewPCG(1, 2))
	for range 700 {
		var b [16]byte
		binary.NativeEndian.PutUint64(b[:8], random.Uint64())
		binary.NativeEndian.PutUint64(b[8:], random.Uint64())
		port := uint16(random.Uint32())
		src4, src6 := ap(netip.AddrFrom4([4]byte(b[:4])), port), ap(netip.AddrFrom16(b), port)
		udp := packet.UDP{Src: port, Dst: 80}
		slot := oracle(src4, v4, 17, false, len(backends))
		chosen[slot]++
		if got := n.run("choose", packet.Build(fromRouter, packet.IPv4{Src: src4.Addr(), Dst: vip}, udp)).verdict; int(got) != first[0]+slot {
			t.Fatalf("%v: backend %d, want %d", src4, got, first[0]+slot)
		}
		slot = oracle(src6, v6, 17, true, len(backends))
		if got := n.run("choose", packet.Build(fromRouter, packet.IPv6{Src: src6.Addr(), Dst: vip6}, udp)).verdict; int(got) != first[1]+slot {
			t.Fatalf("%v: backend %d, want %d", src6, got, first[1]+slot)
		}
	}
	for slot, count := range chosen {
		if count < 60 || count > 145 {
			t.Errorf("slot %d was chosen %d times of 700, want about 100", slot, count)
		}
	}
	if f := n.count("flows_new"); f != 0 {
		t.Errorf("%d entries were written, want none", f)
	}
}
