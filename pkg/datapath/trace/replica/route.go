// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// Route is what the node's routing table says.
type Route struct {
	Link           int
	Hop            netip.Addr
	SrcMAC, DstMAC [6]byte
	Local          bool
	Refused        string // why it leads nowhere
}

// fibSize is struct bpf_fib_lookup's; then BPF_FIB_LKUP_RET_*.
const (
	fibSize = 64

	fibSuccess, fibNotForwarded, fibNoNeighbour = 0, 4, 7
)

// loopback is the device that the node's own packets are looked up for.
const loopback = 1

// Route asks the node's routes for a packet of a device, or its own.
func (r *Replica) Route(packet []byte, from int) (Route, error) {
	h := headers.Read(packet)
	q := make([]byte, fibSize)
	q[0], q[1] = unix.AF_INET, byte(h.Proto)
	src, dst := h.Src.Addr().AsSlice(), h.Dst.Addr().AsSlice()
	if h.Src.Addr().Is6() {
		q[0] = unix.AF_INET6
	}
	binary.BigEndian.PutUint16(q[2:], h.Src.Port())
	binary.BigEndian.PutUint16(q[4:], h.Dst.Port())
	if from == 0 {
		from = loopback
	}
	binary.NativeEndian.PutUint32(q[8:], uint32(from))
	copy(q[16:], src)
	copy(q[32:], dst)
	if err := r.maps[tableRoutes].Put(uint32(0), q); err != nil {
		return Route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	code, err := r.route.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return Route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	if err := r.maps[tableRoutes].Lookup(uint32(0), &q); err != nil {
		return Route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	to := Route{Link: int(binary.NativeEndian.Uint32(q[8:])), SrcMAC: [6]byte(q[52:]), DstMAC: [6]byte(q[58:])}
	to.Hop, _ = netip.AddrFromSlice(q[32 : 32+len(dst)])
	if q[0] == unix.AF_INET6 { // also of an IPv4 route
		to.Hop = netip.AddrFrom16([16]byte(q[32:48]))
	}
	switch code {
	case fibSuccess, fibNoNeighbour:
		return to, nil
	case fibNotForwarded:
		to.Local = true
		return to, nil
	}
	to.Refused = fibText(code)
	return to, nil
}

func fibText(code uint32) string {
	texts := map[uint32]string{
		1: "a blackhole route", 2: "an unreachable route, or none", 3: "a prohibiting route",
		5: "forwarding is switched off (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding)",
	}
	if text := texts[code]; text != "" {
		return text
	}
	return fmt.Sprintf("no route (code %d of bpf_fib_lookup)", int32(code))
}

// routeProgram asks the node's routes: struct bpf_fib_lookup is in the map fibs.
func routeProgram() *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: "route", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		value(asm.R2, tableRoutes),
		asm.Mov.Imm(asm.R3, fibSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnFibLookup.Call(),
		asm.Return(),
	}}
}
