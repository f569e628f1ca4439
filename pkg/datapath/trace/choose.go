// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// Socket is what connect(), or sendmsg() of UDP, does with an address. It can't
// be run on a packet: the sockets' programs see none. It is read from the maps.
type Socket struct {
	Found    bool // a Service of the cluster has the address and port
	Balanced bool // the call goes to a backend at once; else its packets meet the programs
	Why      string
	Backends []netip.AddrPort // any of these
	Example  netip.AddrPort   // the one that the packet's own hash would fall on
	Affinity uint32           // seconds that the network namespace's earlier choice counts; 0: none
	Last     netip.AddrPort   // that earlier choice, if it is known and still counts
}

// Socket says what a socket's call to an address becomes. The choice among the
// backends is random; the example is made by the program "choose" for a packet
// from src. With affinity the client is the network namespace, by its cookie; 0:
// not known.
func (t *Tracer) Socket(src, dst netip.AddrPort, proto headers.Protocol, netns uint64) (Socket, error) {
	var fe objects.MapFrontend
	key := objects.MapFrontendKey{Addr: objects.Addr(dst.Addr()), Port: objects.Port(dst.Port()), Proto: uint8(proto), Scope: uint8(objects.MapScopeSCOPE_CLUSTER)}
	err := t.Lookup("frontends", key, &fe)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Socket{Why: "no Service has it"}, nil
	}
	if err != nil {
		return Socket{}, fmt.Errorf("read frontend %s: %w", dst, err)
	}
	s := Socket{Found: true, Backends: t.backendsOf(fe.Service), Affinity: fe.Affinity}
	switch {
	case fe.Flags&uint16(objects.MapFrontendFlagsFE_SOCKET) != 0:
		s.Balanced = len(s.Backends) > 0
	case fe.Ranges != 0:
		s.Why = "source ranges are judged by packets"
	}
	if len(s.Backends) == 0 {
		s.Why = "it has no backend; packets are refused"
	} else if !s.Balanced && s.Why == "" {
		s.Why = "it is left to packets"
	}
	if !s.Balanced {
		return s, nil
	}
	if fe.Affinity > 0 && netns != 0 {
		if last, ok := t.affine(socketClient(netns), fe.Service); ok && slices.Contains(s.Backends, last) {
			s.Last, s.Example = last, last
			return s, nil
		}
	}
	s.Example, err = t.choose(Packet{Src: src, Dst: dst, Proto: proto})
	return s, err
}

// socketClient is what stands for a network namespace in the affinity table.
func socketClient(netns uint64) netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[8:], netns)
	return netip.AddrFrom16(b)
}

// choose runs the program that only chooses.
func (t *Tracer) choose(p Packet) (netip.AddrPort, error) {
	frame, err := p.frame()
	if err != nil {
		return netip.AddrPort{}, err
	}
	id, err := t.Choose(frame)
	if err != nil {
		return netip.AddrPort{}, err
	}
	chosen, _ := t.backend(id)
	return chosen, nil
}

// backend reads a backend.
func (t *Tracer) backend(id uint32) (netip.AddrPort, bool) {
	var b objects.MapBackend
	if id == 0 || t.Lookup("backends", id, &b) != nil || b.Port == 0 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(b.Addr.Netip(), objects.Port(b.Port)), true
}

// backendsOf lists a Service's backends, each once.
func (t *Tracer) backendsOf(service uint32) []netip.AddrPort {
	var word uint64
	if t.Lookup("services", service, &word) != nil {
		return nil
	}
	base, count := uint32(word), uint32(uint16(word>>32))
	ids := map[uint32]bool{}
	for slot := base; slot < base+count; slot++ {
		var id uint32
		if t.Lookup("slots", slot, &id) == nil {
			ids[id] = true
		}
	}
	var all []netip.AddrPort
	for id := range ids {
		if b, ok := t.backend(id); ok {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// Announced tells whether this node answers for an address on a NIC, which is
// what brings packets for it here.
func (t *Tracer) Announced(addr netip.Addr, link int) bool {
	m, err := t.InForce("announced")
	if err != nil {
		return false
	}
	defer m.Close()
	var until objects.MapAnnounced
	return m.Lookup(objects.MapAnnouncedKey{Addr: objects.Addr(addr), Ifindex: uint32(link)}, &until) == nil
}
