// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Codes of tc that the programs return.
const (
	actUnspec   = ^uint32(0)
	actShot     = uint32(2)
	actRedirect = uint32(7)
)

// skb is the part of struct __sk_buff that a test run takes and gives.
type skb struct {
	Len, PktType, Mark uint32
	_                  [6]uint32
	IngressIfindex     uint32
	Ifindex            uint32
	_                  [37]uint32
}

// input is a packet at a program.
type input struct {
	program string
	link    int // of the device; its ingress or egress is the program's
	origin  int // device that brought it, for egress; 0: the node itself
	mark    uint32
	frame   []byte
	node    netip.Addr // who sent it through the tunnel
}

// step is one stage's work.
type step struct {
	name     string
	ret      int32
	packet   packet // as the stage got it
	flow     objects.MapFlow
	frontend objects.MapFrontend
	steps    []step // of stages that it called
}

// packet is what a stage knows of the packet.
type packet struct {
	tuple                             objects.MapFlowKey
	family, hook, flags, dest, client uint8
}

// output is what a program made of it.
type output struct {
	verdict uint32
	mark    uint32
	frame   []byte
	reason  string // why it was dropped; empty: it wasn't
	sent    sent
	steps   []step
}

// run runs one program, with the entries of the maps in force that the packet
// may meet, and what earlier runs have added.
func (t *Tracer) run(in input) (output, error) {
	p, err := t.program(in.program)
	if err != nil {
		return output{}, err
	}
	if err := t.reset(in); err != nil {
		return output{}, err
	}
	before, err := t.dropped()
	if err != nil {
		return output{}, err
	}
	var ctx skb
	opts := ebpf.RunOptions{
		Data: in.frame, DataOut: make([]byte, len(in.frame)+256), ContextOut: &ctx,
		Context: skb{Mark: in.mark, Ifindex: uint32(in.link), IngressIfindex: uint32(in.origin)},
	}
	out := output{}
	if out.verdict, err = p.Run(&opts); err != nil {
		return output{}, fmt.Errorf("run %s on interface %d: %w", in.program, in.link, err)
	}
	out.frame, out.mark = opts.DataOut, ctx.Mark
	if out.reason, err = t.reasonSince(before); err != nil {
		return output{}, err
	}
	if err := t.maps[tableSends].Lookup(uint32(0), &out.sent); err != nil {
		return output{}, fmt.Errorf("read what was sent: %w", err)
	}
	out.steps, err = t.steps(p)
	return out, err
}

// reset forgets the last run's records and says how the packet came.
func (t *Tracer) reset(in input) error {
	key := came{}
	if in.node.IsValid() {
		key.Tunnel, key.Remote = 2, in.node.As16() // BPF_F_TUNINFO_IPV6
		if in.node.Is4() {
			v4 := in.node.As4()
			key = came{Tunnel: 1, Remote: [16]byte{v4[3], v4[2], v4[1], v4[0]}} // as the host counts
		}
	}
	err := errors.Join(
		t.maps[tableArrivals].Put(uint32(0), key),
		t.maps[tableSends].Put(uint32(0), sent{}),
		t.maps[tableSteps].Put(uint32(0), make([]byte, stepsSpec().ValueSize)),
	)
	if err != nil {
		return fmt.Errorf("prepare run of %s: %w", in.program, err)
	}
	return nil
}

// dropped returns how many packets the copies have dropped, by reason.
func (t *Tracer) dropped() (map[uint32]uint64, error) {
	all := map[uint32]uint64{}
	var reason uint32
	var perCPU []objects.MapDropCount
	it := t.maps["drops"].Iterate()
	for it.Next(&reason, &perCPU) {
		for _, c := range perCPU {
			all[reason] += c.Packets
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read drops: %w", err)
	}
	return all, nil
}

func (t *Tracer) reasonSince(before map[uint32]uint64) (string, error) {
	after, err := t.dropped()
	if err != nil {
		return "", err
	}
	for reason, count := range after {
		if count > before[reason] && int(reason) < len(t.reasons) {
			return t.reasons[reason], nil
		}
	}
	return "", nil
}

// steps reads what the stages did.
func (t *Tracer) steps(p *program) ([]step, error) {
	all := make([]byte, stepsSpec().ValueSize)
	if err := t.maps[tableSteps].Lookup(uint32(0), &all); err != nil {
		return nil, fmt.Errorf("read steps: %w", err)
	}
	made := int(binary.NativeEndian.Uint32(all))
	open := []step{{}} // the stages that have not ended, the program itself first
	for i := 1; i <= min(made, maxSteps); i++ {
		record := all[i*stepSize : (i+1)*stepSize]
		number := binary.NativeEndian.Uint32(record)
		if int(number&^stepEnd) >= len(p.stages) {
			return nil, fmt.Errorf("step %d: no stage has number %d", i, number&^stepEnd)
		}
		if number&stepEnd == 0 {
			open = append(open, p.read(p.stages[number].name, record))
			continue
		}
		last := len(open) - 1
		if last == 0 {
			return nil, fmt.Errorf("step %d: %s ends and never began", i, p.stages[number&^stepEnd].name)
		}
		open[last].ret = int32(binary.NativeEndian.Uint32(record[4:]))
		open[last-1].steps = append(open[last-1].steps, open[last])
		open = open[:last]
	}
	return open[0].steps, nil
}

// read decodes a record.
func (p *program) read(name string, record []byte) step {
	s := step{name: name}
	copyInto(&s.packet.tuple, record[stepPacket:])
	copyInto(&s.flow, record[stepFlow:])
	copyInto(&s.frontend, record[stepFrontend:])
	for field, to := range map[string]*uint8{
		"family": &s.packet.family, "hook": &s.packet.hook, "flags": &s.packet.flags, "dest": &s.packet.dest, "client": &s.packet.client,
	} {
		for _, m := range p.packet.Members {
			if m.Name == field {
				*to = record[stepPacket+int(m.Offset.Bytes())]
			}
		}
	}
	return s
}

// copyInto reads a map's value out of a record.
func copyInto[T any](to *T, record []byte) {
	*to = *(*T)(unsafe.Pointer(&record[0]))
}

// remember copies the entries that packets from and to these addresses may
// meet into the private maps.
func (t *Tracer) remember(addrs ...netip.Addr) error {
	touches := func(of ...[16]uint8) bool {
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(of, a.As16()) })
	}
	flow := func(k objects.MapFlowKey, v objects.MapFlow) bool {
		return touches(k.Saddr.B, k.Daddr.B, v.Saddr.B, v.Daddr.B)
	}
	return errors.Join(
		copyEntries(t, "flows", flow),
		copyEntries(t, "flows_new", flow),
		copyEntries(t, "fragments", func(k objects.MapFragmentKey, _ objects.MapFragment) bool { return touches(k.Saddr.B, k.Daddr.B) }),
		copyEntries(t, "affinities", func(k objects.MapAffinityKey, _ objects.MapAffinity) bool { return touches(k.Client.B) }),
		copyEntries(t, "announced", func(objects.MapAnnouncedKey, objects.MapAnnounced) bool { return true }),
		copyEntries(t, "endpoints", func(objects.MapAddr, objects.MapEndpoint) bool { return true }),
	)
}

// batch is how many entries are read at once.
const batch = 4096

// copyEntries copies the wanted entries of a map in force.
func copyEntries[K, V any](t *Tracer, name string, wanted func(K, V) bool) error {
	from, err := ebpf.LoadPinnedMap(t.dir+"/"+name, nil)
	if err != nil {
		return fmt.Errorf("open map %s: %w", name, err)
	}
	defer from.Close()
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := from.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read map %s: %w", name, err)
		}
		for i := range n {
			if !wanted(keys[i], values[i]) {
				continue
			}
			if err := t.maps[name].Put(keys[i], values[i]); err != nil {
				return fmt.Errorf("copy entry of map %s: %w", name, err)
			}
		}
		if err != nil {
			return nil
		}
	}
}
