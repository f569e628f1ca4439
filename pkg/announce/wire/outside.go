// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

const (
	echoRequest = 128
	echoReply   = 129

	offARPOp    = 20
	offNextHdr  = 20
	offICMPType = 54
)

// answers passes ARP replies; of IPv6, neighbour advertisements and echo replies.
func answers(protocol int) ([]bpf.RawInstruction, error) {
	const all, none = 0xffff, 0
	if protocol == frame.EtherARP {
		return bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: offARPOp, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: frame.ARPReply, SkipFalse: 1},
			bpf.RetConstant{Val: all},
			bpf.RetConstant{Val: none},
		})
	}
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offNextHdr, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.ICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: offICMPType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: frame.NeighborAdvert, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: echoReply, SkipTrue: 1},
		bpf.RetConstant{Val: all},
		bpf.RetConstant{Val: none},
	})
}

// answerer tells who has answered.
func answerer(b []byte) (addr netip.Addr, mac [6]byte, ok bool) {
	if s, ok := frame.Parse(b); ok && !s.Probe {
		return s.Addr, s.MAC, true
	}
	if len(b) <= offICMPType || b[offNextHdr] != frame.ICMPv6 || b[offICMPType] != echoReply {
		return addr, mac, false
	}
	copy(mac[:], b[6:12])
	return netip.AddrFrom16([16]byte(b[22:38])), mac, true
}

// Outside implements heartbeat.Transport: it asks the machines that the kernel
// has spoken with on the NIC's network, its routers, and by IPv6 everybody.
func (w *Wire) Outside(link int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[link]
	if p == nil {
		return fmt.Errorf("ask outside on link %d: %w", link, errNotOpen)
	}
	var errs []error
	if p.link.Addr.Is4() {
		for _, addr := range neighbours(p.link.Name) {
			errs = append(errs, w.ask(p, frame.EtherARP, frame.Request(addr, p.link.Addr, p.link.MAC)))
		}
	}
	if own := linkLocal(p.link.Index); own.IsValid() {
		errs = append(errs, w.ask(p, frame.EtherIPv6, echo(own, p.link.MAC)))
	}
	return errors.Join(errs...)
}

// neighboursMax bounds who is asked.
const neighboursMax = 16

// neighbours are the IPv4 addresses that the kernel knows on a NIC's network.
func neighbours(nic string) []netip.Addr {
	var list []netip.Addr
	add := func(addr netip.Addr) {
		if addr.IsValid() && !addr.IsUnspecified() && !slices.Contains(list, addr) && len(list) < neighboursMax {
			list = append(list, addr)
		}
	}
	for _, f := range fields("/proc/net/route") { // Iface Destination Gateway …
		if raw, err := hex.DecodeString(f[2]); err == nil && len(raw) == 4 && f[0] == nic {
			add(netip.AddrFrom4([4]byte{raw[3], raw[2], raw[1], raw[0]})) // little endian, as on all machines we run on
		}
	}
	for _, f := range fields("/proc/net/arp") { // address, type, flags, MAC, mask, device
		if len(f) > 5 && f[5] == nic && f[2] != "0x0" {
			addr, _ := netip.ParseAddr(f[0])
			add(addr)
		}
	}
	return list
}

// linkLocal returns a NIC's own link-local address.
func linkLocal(link int) netip.Addr {
	for _, f := range fields("/proc/net/if_inet6") { // address, index, length, scope, flags, device
		index, _ := strconv.ParseInt(f[1], 16, 32)
		raw, err := hex.DecodeString(f[0])
		if err != nil || len(raw) != 16 || int(index) != link {
			continue
		}
		if addr := netip.AddrFrom16([16]byte(raw)); addr.IsLinkLocalUnicast() {
			return addr
		}
	}
	return netip.Addr{}
}

// fields reads a table of /proc; rows of less than four fields are left out.
func fields(path string) (rows [][]string) {
	f, err := os.Open(path)
	if err != nil {
		return nil // no IPv6, say
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if row := strings.Fields(s.Text()); len(row) >= 4 {
			rows = append(rows, row)
		}
	}
	return rows
}

// echo is a ping of all nodes on the link.
func echo(own netip.Addr, mac [6]byte) []byte {
	const mark = 0x7062
	all := netip.AddrFrom16([16]byte{0xff, 0x02, 15: 1})
	message := []byte{echoRequest, 0, 0, 0, mark >> 8, mark & 0xff, 0, 1}
	sum := uint32(len(message)) + frame.ICMPv6
	for _, part := range [][]byte{own.AsSlice(), all.AsSlice(), message} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum))
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(message)), frame.ICMPv6, 255)
	b = append(append(b, own.AsSlice()...), all.AsSlice()...)
	return append(b, message...)
}
