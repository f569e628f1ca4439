// SPDX-License-Identifier: Apache-2.0

package replica

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
	ActUnspec   = ^uint32(0)
	ActShot     = uint32(2)
	ActRedirect = uint32(7)
)

// skb is the part of struct __sk_buff that a test run takes and gives.
type skb struct {
	Len, PktType, Mark uint32
	_                  [6]uint32
	IngressIfindex     uint32
	Ifindex            uint32
	_                  [37]uint32
}

// Input is a packet at a program.
type Input struct {
	Program string
	Link    int // of the device; its ingress or egress is the program's
	Origin  int // device that brought it, for egress; 0: the node itself
	Mark    uint32
	Frame   []byte
	Node    netip.Addr // who sent it through the tunnel
}

// Step is one stage's work.
type Step struct {
	Name     string
	Ret      int32
	Packet   Context // as the stage got it
	Flow     objects.MapFlow
	Frontend objects.MapFrontend
	Steps    []Step // of stages that it called
}

// Context is what a stage knows of the packet.
type Context struct {
	Tuple                             objects.MapFlowKey
	Family, Hook, Flags, Dest, Client uint8
}

// Output is what a program made of a packet.
type Output struct {
	Verdict uint32
	Mark    uint32
	Frame   []byte
	Reason  string // why it was dropped; empty: it wasn't
	Sent    Sent
	Steps   []Step
}

// Run runs one program, with the entries of the maps in force that the packet
// may meet, and what earlier runs have added.
func (r *Replica) Run(in Input) (Output, error) {
	p, err := r.program(in.Program)
	if err != nil {
		return Output{}, err
	}
	if err := r.reset(in); err != nil {
		return Output{}, err
	}
	before, err := r.dropped()
	if err != nil {
		return Output{}, err
	}
	var ctx skb
	opts := ebpf.RunOptions{
		Data: in.Frame, DataOut: make([]byte, len(in.Frame)+256), ContextOut: &ctx,
		Context: skb{Mark: in.Mark, Ifindex: uint32(in.Link), IngressIfindex: uint32(in.Origin)},
	}
	out := Output{}
	if out.Verdict, err = p.Run(&opts); err != nil {
		return Output{}, fmt.Errorf("run %s on interface %d: %w", in.Program, in.Link, err)
	}
	out.Frame, out.Mark = opts.DataOut, ctx.Mark
	if out.Reason, err = r.reasonSince(before); err != nil {
		return Output{}, err
	}
	if err := r.maps[tableSends].Lookup(uint32(0), &out.Sent); err != nil {
		return Output{}, fmt.Errorf("read what was sent: %w", err)
	}
	out.Steps, err = r.steps(p)
	return out, err
}

// reset forgets the last run's records and says how the packet came.
func (r *Replica) reset(in Input) error {
	key := came{}
	if in.Node.IsValid() {
		key.Tunnel, key.Remote = 2, in.Node.As16() // BPF_F_TUNINFO_IPV6
		if in.Node.Is4() {
			v4 := in.Node.As4()
			key = came{Tunnel: 1, Remote: [16]byte{v4[3], v4[2], v4[1], v4[0]}} // as the host counts
		}
	}
	err := errors.Join(
		r.maps[tableArrivals].Put(uint32(0), key),
		r.maps[tableSends].Put(uint32(0), Sent{}),
		r.maps[tableSteps].Put(uint32(0), make([]byte, stepsSpec().ValueSize)),
	)
	if err != nil {
		return fmt.Errorf("prepare run of %s: %w", in.Program, err)
	}
	return nil
}

// dropped returns how many packets the copies have dropped, by reason.
func (r *Replica) dropped() (map[uint32]uint64, error) {
	all := map[uint32]uint64{}
	var reason uint32
	var perCPU []objects.MapDropCount
	it := r.maps["drops"].Iterate()
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

func (r *Replica) reasonSince(before map[uint32]uint64) (string, error) {
	after, err := r.dropped()
	if err != nil {
		return "", err
	}
	for reason, count := range after {
		if count > before[reason] && int(reason) < len(r.reasons) {
			return r.reasons[reason], nil
		}
	}
	return "", nil
}

// steps reads what the stages did.
func (r *Replica) steps(p *program) ([]Step, error) {
	all := make([]byte, stepsSpec().ValueSize)
	if err := r.maps[tableSteps].Lookup(uint32(0), &all); err != nil {
		return nil, fmt.Errorf("read steps: %w", err)
	}
	made := int(binary.NativeEndian.Uint32(all))
	open := []Step{{}} // the stages that have not ended, the program itself first
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
		open[last].Ret = int32(binary.NativeEndian.Uint32(record[4:]))
		open[last-1].Steps = append(open[last-1].Steps, open[last])
		open = open[:last]
	}
	return open[0].Steps, nil
}

// read decodes a record.
func (p *program) read(name string, record []byte) Step {
	s := Step{Name: name}
	copyInto(&s.Packet.Tuple, record[stepPacket:])
	copyInto(&s.Flow, record[stepFlow:])
	copyInto(&s.Frontend, record[stepFrontend:])
	for field, to := range map[string]*uint8{
		"family": &s.Packet.Family, "hook": &s.Packet.Hook, "flags": &s.Packet.Flags, "dest": &s.Packet.Dest, "client": &s.Packet.Client,
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

// Remember copies the entries that packets from and to these addresses may
// meet into the private maps.
func (r *Replica) Remember(addrs ...netip.Addr) error {
	touches := func(of ...[16]uint8) bool {
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(of, a.As16()) })
	}
	flow := func(k objects.MapFlowKey, v objects.MapFlow) bool {
		return touches(k.Saddr.B, k.Daddr.B, v.Saddr.B, v.Daddr.B)
	}
	return errors.Join(
		copyEntries(r, "flows", flow),
		copyEntries(r, "flows_new", flow),
		copyEntries(r, "fragments", func(k objects.MapFragmentKey, _ objects.MapFragment) bool { return touches(k.Saddr.B, k.Daddr.B) }),
		copyEntries(r, "affinities", func(k objects.MapAffinityKey, _ objects.MapAffinity) bool { return touches(k.Client.B) }),
		copyEntries(r, "announced", func(objects.MapAnnouncedKey, objects.MapAnnounced) bool { return true }),
		copyEntries(r, "endpoints", func(objects.MapAddr, objects.MapEndpoint) bool { return true }),
	)
}

// batch is how many entries are read at once.
const batch = 4096

// copyEntries copies the wanted entries of a map in force.
func copyEntries[K, V any](r *Replica, name string, wanted func(K, V) bool) error {
	from, err := ebpf.LoadPinnedMap(r.dir+"/"+name, nil)
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
			if err := r.maps[name].Put(keys[i], values[i]); err != nil {
				return fmt.Errorf("copy entry of map %s: %w", name, err)
			}
		}
		if err != nil {
			return nil
		}
	}
}
