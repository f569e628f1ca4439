// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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

// guard drops, at its host end, what a leg sends by another MAC address than its
// own or for another VLAN, what it says in ARP and neighbour discovery about
// addresses that aren't its own, and what a router says. A probe before use speaks
// of nobody. The one link-local address is that derived from the MAC address.
func guard(index int, mac [6]byte, own []netip.Addr) error {
	if mac == [6]byte{} {
		return errors.New("its MAC address isn't given")
	}
	program := append(untagged(), guardProgram(mac, append(slices.Clip(own), linkLocal(mac)))...)
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
	offSource    = 6
	offType      = 12
	offARPSender = 28
	offIP6Next   = 20
	offIP6Source = 22
	offIP6Inner  = 54 // ICMPv6, or an extension header
	offNATarget  = 62
)

// Types of ICMPv6.
const (
	icmpMLDReport   = 131
	icmpMLDDone     = 132
	icmpRouterAsks  = 133
	icmpRouterSays  = 134
	icmpAsks        = 135
	icmpSays        = 136
	icmpRedirect    = 137
	icmpMLDv2Report = 143
)

func ret(result uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: result}
}

func load(size uint16, at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
}

func and(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
}

func equal(k uint32, jt, jf uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: jt, Jf: jf}
}

func over(instructions int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(instructions)}
}

// guardProgram is the guard as classic BPF: 0 lets a frame pass, 2 drops it. It is
// made of blocks that end with a result; as one may be longer than a conditional
// jump reaches, an unconditional one leads over it. What is too short passes: it
// says nothing. The kernel has taken off a VLAN's tag before; what has a second one
// is dropped, as a receiver takes off two.
func guardProgram(mac [6]byte, own []netip.Addr) []unix.SockFilter {
	arp, ip6 := arpBlock(own), ip6Block(own)
	program := []unix.SockFilter{
		load(unix.BPF_W, offSource), equal(binary.BigEndian.Uint32(mac[:]), 0, 2),
		load(unix.BPF_H, offSource+4), equal(uint32(binary.BigEndian.Uint16(mac[4:])), 1, 0),
		ret(actShot),
		load(unix.BPF_H, offType), equal(unix.ETH_P_8021Q, 1, 0), equal(unix.ETH_P_8021AD, 0, 1), ret(actShot),
		equal(unix.ETH_P_ARP, 0, 1), over(2 + len(ip6)), equal(unix.ETH_P_IPV6, 1, 0), ret(0),
	}
	return append(append(program, ip6...), arp...)
}

// untagged drops frames of a VLAN, which an external switch would hand to its port.
// VLAN 0 is a priority alone.
func untagged() []unix.SockFilter {
	const vlanTag = 0xfffff000 + 44 // a load from there is of what goes with the frame: SKF_AD_OFF + SKF_AD_VLAN_TAG
	return []unix.SockFilter{load(unix.BPF_W, vlanTag), and(0xfff), equal(0, 1, 0), ret(actShot)}
}

// linkLocal is the address that the kernel derives from a MAC address.
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// arpBlock lets pass what is said for the leg's own address, or for nobody.
func arpBlock(own []netip.Addr) []unix.SockFilter {
	out := []unix.SockFilter{load(unix.BPF_W, offARPSender), equal(0, 0, 1), ret(0)}
	for _, a := range own {
		if a.Is4() {
			b := a.As4()
			out = append(out, equal(binary.BigEndian.Uint32(b[:]), 0, 1), ret(0))
		}
	}
	return append(out, ret(actShot))
}

// ip6Block looks at neighbour discovery, which must not hide behind an extension
// header: MLD alone stands behind hop-by-hop options, destination options and
// routing headers aren't for a switch, and of a fragmented packet the first
// fragment tells.
func ip6Block(own []netip.Addr) []unix.SockFilter {
	hopByHop, fragment := hopByHopBlock(), fragmentBlock()
	says := ip6AddrBlock(offNATarget, own)
	out := append([]unix.SockFilter{load(unix.BPF_B, offIP6Next), equal(unix.IPPROTO_HOPOPTS, 0, uint8(len(hopByHop)))}, hopByHop...)
	out = append(append(out, equal(unix.IPPROTO_FRAGMENT, 0, uint8(len(fragment)))), fragment...)
	out = append(out,
		equal(unix.IPPROTO_ROUTING, 1, 0), equal(unix.IPPROTO_DSTOPTS, 0, 1), ret(actShot),
		equal(unix.IPPROTO_ICMPV6, 1, 0), ret(0),
		load(unix.BPF_B, offIP6Inner),
		equal(icmpRouterSays, 1, 0), equal(icmpRedirect, 0, 1), ret(actShot),
		equal(icmpSays, 1, 0), over(len(says)))
	out = append(out, says...)
	out = append(out, equal(icmpAsks, 2, 0), equal(icmpRouterAsks, 1, 0), ret(0))
	return append(out, ip6AddrBlock(offIP6Source, append(slices.Clip(own), netip.IPv6Unspecified()))...)
}

// hopByHopBlock lets MLD's reports pass, behind options of the least length.
func hopByHopBlock() []unix.SockFilter {
	return []unix.SockFilter{
		load(unix.BPF_B, offIP6Inner), equal(unix.IPPROTO_ICMPV6, 0, 6),
		load(unix.BPF_B, offIP6Inner+1), equal(0, 0, 4),
		load(unix.BPF_B, offIP6Inner+8), equal(icmpMLDReport, 3, 0), equal(icmpMLDDone, 2, 0), equal(icmpMLDv2Report, 1, 0),
		ret(actShot), ret(0),
	}
}

// fragmentBlock drops first fragments of neighbour discovery, and of what has
// another extension header.
func fragmentBlock() []unix.SockFilter {
	return []unix.SockFilter{
		load(unix.BPF_H, offIP6Inner+2), and(0xfff8), equal(0, 1, 0), ret(0),
		load(unix.BPF_B, offIP6Inner),
		equal(unix.IPPROTO_HOPOPTS, 7, 0), equal(unix.IPPROTO_ROUTING, 6, 0), equal(unix.IPPROTO_FRAGMENT, 5, 0), equal(unix.IPPROTO_DSTOPTS, 4, 0),
		equal(unix.IPPROTO_ICMPV6, 0, 4), load(unix.BPF_B, offIP6Inner+8),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: icmpRouterAsks, Jf: 2},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: icmpRedirect, Jt: 1},
		ret(actShot), ret(0),
	}
}

// ip6AddrBlock lets pass what has, at an offset, one of the addresses.
func ip6AddrBlock(at uint32, addrs []netip.Addr) []unix.SockFilter {
	var out []unix.SockFilter
	for _, a := range addrs {
		if a.Is4() {
			continue
		}
		b := a.As16()
		for word := range 4 { // the last word that fits passes; one that doesn't skips what is left of the block
			skip := uint8(7 - 2*word)
			out = append(out, load(unix.BPF_W, at+uint32(4*word)), equal(binary.BigEndian.Uint32(b[4*word:]), 0, skip))
		}
		out = append(out, ret(0))
	}
	return append(out, ret(actShot))
}
