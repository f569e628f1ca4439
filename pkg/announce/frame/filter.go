// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Where the frame has what the filters look at.
const (
	offARPOp     = ethernetLen + 6
	offARPSender = ethernetLen + 14
	offARPTarget = ethernetLen + 24
	offNextHdr   = ethernetLen + 6
	offSource6   = ethernetLen + 8
	offICMPType  = ethernetLen + ipv6Len
	offTarget6   = ethernetLen + ipv6Len + 8
)

// Filter returns the program by which the kernel passes only the frames that
// say or ask something of an address in the prefix: of family IPv4 to a socket
// for ARP, of IPv6 to one for IPv6.
func Filter(prefix netip.Prefix) ([]bpf.RawInstruction, error) {
	if prefix.Addr().Is4() {
		return bpf.Assemble(filterARP(prefix))
	}
	return bpf.Assemble(filterND(prefix))
}

// Covering returns the longest prefix that has all addresses, which are of one
// family.
func Covering(addrs ...netip.Addr) netip.Prefix {
	if len(addrs) == 0 {
		return netip.Prefix{}
	}
	bits := addrs[0].BitLen()
	for _, addr := range addrs {
		for bits > 0 && !netip.PrefixFrom(addrs[0], bits).Contains(addr) {
			bits--
		}
	}
	return netip.PrefixFrom(addrs[0], bits).Masked()
}

const everything = 0xffff // bytes of a frame that a socket gets

func filterARP(prefix netip.Prefix) []bpf.Instruction {
	steps := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offARPSender, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3},
		bpf.LoadAbsolute{Off: offARPOp, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ARPRequest, SkipTrue: 4}, // to the refusal
		bpf.LoadAbsolute{Off: offARPTarget, Size: 4},
	}
	mask, want := words(prefix)
	return append(steps,
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask[0]},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want[0], SkipFalse: 1},
		bpf.RetConstant{Val: everything},
		bpf.RetConstant{Val: 0},
	)
}

func filterND(prefix netip.Prefix) []bpf.Instruction {
	target, source := inside(prefix, offTarget6), inside(prefix, offSource6)
	return append(append(append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offNextHdr, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ICMPv6, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: offICMPType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: NeighborAdvert, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: NeighborSolicitation, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, target...), source...), bpf.RetConstant{Val: 0})
}

// inside returns the steps that pass a frame whose IPv6 address at off is in
// the prefix, and otherwise go on behind them.
func inside(prefix netip.Prefix, off uint32) []bpf.Instruction {
	mask, want := words(prefix)
	var steps []bpf.Instruction
	for i := range mask {
		left := uint8(3*(len(mask)-1-i) + 1) // steps behind this comparison's
		steps = append(steps,
			bpf.LoadAbsolute{Off: off + uint32(4*i), Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask[i]},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: want[i], SkipTrue: left},
		)
	}
	return append(steps, bpf.RetConstant{Val: everything})
}

// words returns a prefix's mask and address, 32 bits each.
func words(prefix netip.Prefix) (mask, want []uint32) {
	addr, bits := prefix.Masked().Addr().AsSlice(), prefix.Bits()
	for i := 0; i < len(addr); i += 4 {
		n := max(0, min(32, bits-8*i))
		mask = append(mask, uint32(uint64(0xffffffff)<<(32-n)))
		want = append(want, binary.BigEndian.Uint32(addr[i:]))
	}
	return mask, want
}
