// SPDX-License-Identifier: Apache-2.0

// Package losses shows the packets that the programs drop, with the reasons.
// Programs in force have nothing for it, and pay nothing. While somebody looks,
// copies of them that note what they drop are in their place, on the same maps.
package losses

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Packet is one that was dropped.
type Packet struct {
	Time     time.Time
	Reason   string
	Program  string // that dropped it
	Link     int    // the device that it came or was to go by
	Length   int
	Answered bool   // its sender was told
	Data     []byte // its first bytes, as it came
}

// Programs are copies that note what they drop.
type Programs struct {
	Programs map[string]*ebpf.Program // by the name of whom they stand for
	names    []string                 // by number
	reasons  []string
	reader   *ringbuf.Reader
	own      []*ebpf.Map
}

// ringSize is room for some thousand packets not read yet.
const ringSize = 1 << 20

// Load loads copies of the packets' programs on the maps of those in force.
func Load(shared map[string]*ebpf.Map, constants map[string]any) (_ *Programs, err error) {
	p := &Programs{Programs: map[string]*ebpf.Program{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.reasons, err = maps.Reasons(); err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	cpus = 1 << bits.Len(uint(cpus-1))
	specs := []*ebpf.MapSpec{
		{Name: tableReasons, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(4 * cpus), MaxEntries: 1},
		{Name: tableHeads, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(recordSize * cpus), MaxEntries: 1},
		{Name: tableRing, Type: ebpf.RingBuf, MaxEntries: ringSize},
	}
	replace := map[string]*ebpf.Map{}
	for _, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, fmt.Errorf("make map %s: %w", spec.Name, err)
		}
		p.own = append(p.own, m)
		replace[spec.Name] = m
	}
	if p.reader, err = ringbuf.NewReader(replace[tableRing]); err != nil {
		return nil, fmt.Errorf("read %s: %w", tableRing, err)
	}
	for _, object := range objects.Programs() {
		if object.Name == "sock" {
			continue
		}
		if err := p.load(object, specs, shared, replace, constants, int32(cpus)); err != nil {
			return nil, fmt.Errorf("load object %s: %w", object.Name, err)
		}
	}
	return p, nil
}

// IsCopy tells whether a program in force is a copy that Load made, by its maps.
// It needs CAP_SYS_ADMIN.
func IsCopy(info *ebpf.ProgramInfo) (bool, error) {
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false, fmt.Errorf("open map %d: %w", id, err)
		}
		about, err := m.Info()
		m.Close()
		if err != nil {
			return false, fmt.Errorf("read map %d: %w", id, err)
		}
		if about.Name == tableRing {
			return true, nil
		}
	}
	return false, nil
}

func (p *Programs) load(object objects.Object, specs []*ebpf.MapSpec, shared, own map[string]*ebpf.Map, constants map[string]any, cpus int32) error {
	spec, err := object.Load()
	if err != nil {
		return err
	}
	for name, value := range constants {
		if v, ok := spec.Variables[name]; ok {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("constant %s: %w", name, err)
			}
		}
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if have, ok := shared[name]; ok {
			m.MaxEntries, m.Pinning = have.MaxEntries(), ebpf.PinNone
			replace[name] = have
		}
	}
	for _, m := range specs {
		spec.Maps[m.Name] = m.Copy()
		replace[m.Name] = own[m.Name]
	}
	for name, program := range spec.Programs {
		watch(program, int32(len(p.names)), cpus)
		p.names = append(p.names, name)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		return fmt.Errorf("%w\n%+v", err, verifier)
	}
	if err != nil {
		return err
	}
	for name := range coll.Programs {
		p.Programs[name] = coll.DetachProgram(name)
	}
	coll.Close()
	return nil
}

// Close closes what is here. Copies that are attached still stay until they
// are replaced.
func (p *Programs) Close() error {
	var errs []error
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	for _, program := range p.Programs {
		errs = append(errs, program.Close())
	}
	for _, m := range p.own {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Read waits until then for dropped packets and returns those that there are.
func (p *Programs) Read(until time.Time) ([]Packet, error) {
	p.reader.SetDeadline(until)
	var out []Packet
	for {
		record, err := p.reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("read dropped packets: %w", err)
		}
		if packet, ok := p.packet(record.RawSample); ok {
			out = append(out, packet)
		}
		if record.Remaining == 0 {
			return out, nil
		}
	}
}

func (p *Programs) packet(b []byte) (Packet, bool) {
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	if len(b) < recordSize || int(word(recordHook)) >= len(p.names) {
		return Packet{}, false
	}
	out := Packet{
		Time: wallClock(binary.NativeEndian.Uint64(b[recordTime:])), Program: p.names[word(recordHook)],
		Link: int(word(recordLink)), Length: int(word(recordLength)), Answered: word(recordVerdict) != shot,
	}
	if reason := int(word(recordReason)); reason < len(p.reasons) {
		out.Reason = p.reasons[reason]
	}
	out.Data = slices.Clone(b[recordData : recordData+min(Bytes, out.Length)])
	return out, true
}

// shot is TC_ACT_SHOT.
const shot = 2

// wallClock is the time of day at a time of the monotonic clock.
func wallClock(monotonic uint64) time.Time {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(int64(monotonic) - now.Nano()))
}
