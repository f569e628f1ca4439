// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// From is the NIC that is asked from.
type From struct {
	Link int
	Addr netip.Addr // its own, of the target's family
}

// Target is what is asked for.
type Target struct {
	Addr netip.Addr `json:"addr"`
	// Ports are TCP ports that a connection is begun to; none means that only
	// ARP or neighbour discovery is asked.
	Ports []uint16 `json:"ports,omitempty"`
}

// Seen is what the wire said.
type Seen struct {
	// MACs are who answered for the address, each once.
	MACs [][6]byte
	// Ports are what became of the connections.
	Ports []Port
}

// Port is what became of the connections to a port.
type Port struct {
	Port   uint16 `json:"port"`
	Answer Answer `json:"answer"`
	// Tries is how many connections were begun until one was answered.
	Tries int `json:"tries"`
}

// Answer is the answer to a SYN.
type Answer string

// The answers.
const (
	Accepted Answer = "accepted" // SYN and ACK
	Refused  Answer = "refused"  // RST
	Silent   Answer = "silent"   // none
)

const (
	resolveTries = 3
	resolveWait  = 150 * time.Millisecond // for each; that several answer shows in that time, too
	synTries     = 5
	synWait      = 300 * time.Millisecond
	firstPort    = 61000 // connections are begun from ports that the kernel doesn't give
	portCount    = 4536
)

// Look asks for the target over the wire. The error is about this node's own NIC.
func Look(ctx context.Context, from From, target Target) (Seen, error) {
	w, err := open(from, target.Addr)
	if err != nil {
		return Seen{}, err
	}
	defer w.close()
	var seen Seen
	if seen.MACs, err = w.resolve(ctx, target.Addr); err != nil || len(seen.MACs) == 0 {
		return seen, err
	}
	for _, port := range target.Ports {
		p, err := w.connect(ctx, netip.AddrPortFrom(target.Addr, port), seen.MACs[0])
		if err != nil {
			return seen, err
		}
		seen.Ports = append(seen.Ports, p)
	}
	return seen, nil
}

// wire is a NIC open for raw frames, which leave it past the datapath and are
// seen before the datapath sees them.
type wire struct {
	From
	name string
	mac  [6]byte
	conn *packet.Conn
}

// open opens a NIC for what is said of an address, or comes from it.
func open(from From, addr netip.Addr) (*wire, error) {
	nic, err := net.InterfaceByIndex(from.Link)
	if err != nil {
		return nil, fmt.Errorf("open link %d: %w", from.Link, err)
	}
	if len(nic.HardwareAddr) != 6 {
		return nil, fmt.Errorf("open %s: it has no Ethernet address", nic.Name)
	}
	filter, err := bpf.Assemble(filter(addr))
	if err != nil {
		return nil, fmt.Errorf("assemble filter for %s: %w", addr, err)
	}
	conn, err := packet.Listen(nic, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", nic.Name, err)
	}
	w := &wire{From: from, name: nic.Name, mac: [6]byte(nic.HardwareAddr), conn: conn}
	if err := w.bypass(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", nic.Name, err), conn.Close())
	}
	return w, nil
}

// filter passes ARP, ICMPv6 and what comes from the address.
func filter(addr netip.Addr) []bpf.Instruction {
	const everything = 0xffff
	raw, kind, source, neighbours := addr.AsSlice(), uint32(etherIPv4), uint32(ethernetLen+12), []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.EtherARP, SkipTrue: 1},
		bpf.RetConstant{Val: everything},
	}
	if addr.Is6() {
		kind, source, neighbours = etherIPv6, ethernetLen+8, []bpf.Instruction{
			bpf.LoadAbsolute{Off: ethernetLen + 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.ICMPv6, SkipTrue: 1},
			bpf.RetConstant{Val: everything},
			bpf.LoadAbsolute{Off: 12, Size: 2},
		}
	}
	program := append(neighbours,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: kind, SkipTrue: 1},
		bpf.RetConstant{Val: 0})
	for i := 0; i < len(raw); i += 4 {
		program = append(program,
			bpf.LoadAbsolute{Off: source + uint32(i), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(raw[i:]), SkipTrue: 1},
			bpf.RetConstant{Val: 0})
	}
	return append(program, bpf.RetConstant{Val: everything})
}

// bypass has frames leave without the programs at the NIC's egress, and keeps
// what leaves it away.
func (w *wire) bypass() error {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		)
	})
	return errors.Join(err, set)
}

func (w *wire) close() { _ = w.conn.Close() }

// resolve asks who has the address.
func (w *wire) resolve(ctx context.Context, addr netip.Addr) (macs [][6]byte, err error) {
	for range resolveTries {
		if err := w.send(frame.Request(addr, w.Addr, w.mac)); err != nil {
			return nil, err
		}
		err := w.listen(ctx, resolveWait, func(b []byte) bool {
			if s, ok := frame.Parse(b); ok && s.Addr == addr && !s.Probe && !slices.Contains(macs, s.MAC) {
				macs = append(macs, s.MAC)
			}
			return false
		})
		if err != nil || len(macs) > 0 {
			return macs, err
		}
	}
	return nil, nil
}

// connect begins connections until one is answered, each from another port: some
// may be balanced to pods of this very node, which takes no packets from itself.
func (w *wire) connect(ctx context.Context, to netip.AddrPort, mac [6]byte) (Port, error) {
	result := Port{Port: to.Port(), Answer: Silent}
	first := rand.IntN(portCount)
	for result.Tries < synTries {
		source := firstPort + (first+result.Tries)%portCount
		result.Tries++
		syn := segment{src: netip.AddrPortFrom(w.Addr, uint16(source)), dst: to, seq: rand.Uint32(), flags: flagSYN}
		if err := w.send(syn.frame(w.mac, mac)); err != nil {
			return result, err
		}
		err := w.listen(ctx, synWait, func(b []byte) bool {
			s, ok := parseSegment(b)
			if !ok || !s.answers(syn) {
				return false
			}
			if result.Answer = Refused; s.flags&flagRST == 0 {
				result.Answer = Accepted
			}
			return true
		})
		if err != nil {
			return result, err
		}
		if result.Answer == Silent {
			continue
		}
		if result.Answer == Accepted {
			syn.seq, syn.flags = syn.seq+1, flagRST
			err = w.send(syn.frame(w.mac, mac))
		}
		return result, err
	}
	return result, nil
}

func (w *wire) send(b []byte) error {
	if _, err := w.conn.WriteTo(b, &packet.Addr{HardwareAddr: b[:6]}); err != nil {
		return fmt.Errorf("send on %s: %w", w.name, err)
	}
	return nil
}

// listen hands frames to hear until it returns true, the time is over, or ctx ends.
func (w *wire) listen(ctx context.Context, d time.Duration, hear func([]byte) bool) error {
	deadline := time.Now().Add(d)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("listen on %s: %w", w.name, err)
	}
	b := make([]byte, 2048)
	for {
		n, _, err := w.conn.ReadFrom(b)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENETDOWN):
			continue // it may come up again
		case err != nil && time.Now().Before(deadline):
			return fmt.Errorf("listen on %s: %w", w.name, err)
		case err != nil:
			return nil
		case hear(b[:n]):
			return nil
		}
	}
}
