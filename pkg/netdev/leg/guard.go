// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Where the guard is: the ingress of clsact, before the bridge sees a frame.
const (
	clsactHandle  = 0xffff0000
	clsactParent  = 0xfffffff1
	ingressParent = 0xfffffff2
)

// Attributes of a tc filter, and of the bpf classifier.
const (
	tcaKind        = 1
	tcaOptions     = 2
	tcaBPFOpsLen   = 4
	tcaBPFOps      = 5
	tcaBPFFlags    = 8
	tcaBPFActAlone = 1 // the program's result is the action
	actShot        = 2
)

// guard drops what a leg says about addresses that aren't its own, in ARP and in
// neighbour advertisements, at its host end. A probe before use speaks of nobody.
func guard(index int, own []netip.Addr) error {
	program := guardProgram(own)
	if err := tc(unix.RTM_NEWQDISC, index, clsactHandle, clsactParent, 0, "clsact", nil); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	options := nl.NewRtAttr(tcaOptions, nil)
	options.AddRtAttr(tcaBPFOpsLen, nl.Uint16Attr(uint16(len(program))))
	options.AddRtAttr(tcaBPFOps, encode(program))
	options.AddRtAttr(tcaBPFFlags, nl.Uint32Attr(tcaBPFActAlone))
	const everyProtocol = 1<<16 | 0x0300 // of priority 1; ETH_P_ALL in wire order
	if err := tc(unix.RTM_NEWTFILTER, index, 0, ingressParent, everyProtocol, "bpf", options); err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// tc asks for a qdisc or a filter.
func tc(kind, index int, handle, parent, info uint32, name string, options *nl.RtAttr) error {
	request := nl.NewNetlinkRequest(kind, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: handle, Parent: parent, Info: info})
	request.AddData(nl.NewRtAttr(tcaKind, nl.ZeroTerminated(name)))
	if options != nil {
		request.AddData(options)
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func encode(program []unix.SockFilter) []byte {
	var out []byte
	for _, i := range program {
		out = binary.NativeEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}

// Offsets in a frame.
const (
	offType      = 12
	offARPSender = 28
	offIP6Next   = 20
	offICMPType  = 54
	offNATarget  = 62
)

// guardProgram is the guard as classic BPF: 0 lets a frame pass, 2 drops it. Each
// test of an address is a block that falls through to the next.
func guardProgram(own []netip.Addr) []unix.SockFilter {
	var arp, na []unix.SockFilter
	pass := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: actShot}
	load := func(size uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: jt, Jf: jf}
	}
	arp = append(arp, load(unix.BPF_W, offARPSender), equal(0, 0, 1), pass)
	na = append(na,
		load(unix.BPF_B, offIP6Next), equal(unix.IPPROTO_ICMPV6, 1, 0), pass,
		load(unix.BPF_B, offICMPType), equal(136, 1, 0), pass,
		load(unix.BPF_W, offNATarget), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xffc00000}, equal(0xfe800000, 0, 1), pass)
	for _, a := range own {
		if a.Is4() {
			b := a.As4()
			arp = append(arp, equal(binary.BigEndian.Uint32(b[:]), 0, 1), pass)
			continue
		}
		b := a.As16()
		for word := range 4 { // the last word that fits passes; one that doesn't skips what is left of the block
			skip := uint8(7 - 2*word)
			na = append(na, load(unix.BPF_W, offNATarget+uint32(4*word)), equal(binary.BigEndian.Uint32(b[4*word:]), 0, skip))
		}
		na = append(na, pass)
	}
	arp, na = append(arp, drop), append(na, drop)
	// By type; a block may be longer than a conditional jump reaches.
	program := []unix.SockFilter{load(unix.BPF_H, offType), equal(unix.ETH_P_ARP, 0, 1), {Code: unix.BPF_JMP | unix.BPF_JA, K: 3}, equal(unix.ETH_P_IPV6, 1, 0), pass, {Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(arp))}}
	return append(append(program, arp...), na...)
}
