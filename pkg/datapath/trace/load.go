// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/load"
	"github.com/patchbay-net/patchbay/pkg/datapath/losses"
	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// The tables that the copies' additions work with: one value each.
const (
	tableSteps    = "steps"
	tableSends    = "sends"
	tableArrivals = "arrivals"
	tableRoutes   = "fibs"
)

// shared are the maps that programs only read: the ones in force are used.
// Everything else is private.
func shared() []string {
	return []string{"config", "nics", "peers", "frontends", "source_ranges", "services", "slots", "backends", "routes"}
}

// Options say which programs to trace.
type Options struct {
	PinDir     string         // as datapath.Options has it
	Constants  map[string]any // datapath.Options' Settings
	Masquerade bool           // pods' packets to the outside get the node's address
	Names      Names
}

// Tracer runs packets through copies of the programs. It serves one caller.
type Tracer struct {
	opts    Options
	dir     string // of the pinned maps
	maps    map[string]*ebpf.Map
	loaded  map[string]*program
	route   *ebpf.Program
	reasons []string
	closers []func() error
}

// program is a copy of a program.
type program struct {
	*ebpf.Program
	stages []stage
	packet *btf.Struct // struct pkt
}

// Open opens the pinned maps. Nothing is loaded before it is needed.
func Open(opts Options) (_ *Tracer, err error) {
	t := &Tracer{
		opts: opts, dir: filepath.Join(opts.PinDir, "v"+strconv.Itoa(load.Schema), "maps"),
		maps: map[string]*ebpf.Map{}, loaded: map[string]*program{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	for _, name := range shared() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(t.dir, name), nil)
		if err != nil {
			return nil, fmt.Errorf("open map %s (is Patchbay in force on this node?): %w", name, err)
		}
		t.keep(name, m)
	}
	if t.reasons, err = maps.Reasons(); err != nil {
		return nil, err
	}
	if err := t.makePrivate(); err != nil {
		return nil, err
	}
	return t, t.makeOwn()
}

// Close removes the copies.
func (t *Tracer) Close() error {
	var errs []error
	for _, f := range slices.Backward(t.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (t *Tracer) keep(name string, m *ebpf.Map) {
	t.maps[name] = m
	t.closers = append(t.closers, m.Close)
}

// privateEntries is room for what one packet and its answers meet, in tables
// that take their memory at once and let the oldest go.
const privateEntries = 8192

// size makes a private map as large as the one in force, or as it needs to be.
func (t *Tracer) size(name string, m *ebpf.MapSpec) error {
	switch m.Type {
	case ebpf.LRUHash:
		m.MaxEntries = privateEntries
	case ebpf.Hash:
		old, err := t.inForce(name)
		if err != nil {
			return err
		}
		defer old.Close()
		m.MaxEntries = old.MaxEntries()
	}
	return nil
}

// makePrivate makes the maps that programs write, empty.
func (t *Tracer) makePrivate() error {
	spec, err := objects.LoadMap()
	if err != nil {
		return fmt.Errorf("parse maps: %w", err)
	}
	for name, m := range spec.Maps {
		if slices.Contains(shared(), name) || strings.HasPrefix(name, ".") {
			continue
		}
		if err := t.size(name, m); err != nil {
			return err
		}
		if err := t.make(name, m); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tracer) make(name string, spec *ebpf.MapSpec) error {
	spec.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s: %w", name, err)
	}
	t.keep(name, m)
	return nil
}

// makeOwn makes the copies' additional tables and the program that asks for
// routes.
func (t *Tracer) makeOwn() error {
	specs := []*ebpf.MapSpec{stepsSpec()}
	for name, size := range map[string]uint32{tableSends: sentSize, tableArrivals: cameSize, tableRoutes: fibSize} {
		specs = append(specs, &ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	}
	own := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}}
	for _, spec := range specs {
		if err := t.make(spec.Name, spec); err != nil {
			return err
		}
		own.Maps[spec.Name] = spec
	}
	own.Programs = map[string]*ebpf.ProgramSpec{"route": routeProgram()}
	var err error
	t.route, err = t.loadOne(own, "route")
	return err
}

// loadOne loads one program of a collection on the maps that there are.
func (t *Tracer) loadOne(spec *ebpf.CollectionSpec, name string) (*ebpf.Program, error) {
	p, ok := spec.Programs[name]
	if !ok {
		return nil, fmt.Errorf("load %s: no such program", name)
	}
	needed := map[string]bool{}
	for _, ins := range p.Instructions {
		if ins.IsLoadFromMap() {
			needed[ins.Reference()] = true
		}
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{name: p}
	replace := map[string]*ebpf.Map{}
	for table, m := range spec.Maps {
		have, ok := t.maps[table]
		switch {
		case !needed[table] && !strings.HasPrefix(table, "."):
			delete(spec.Maps, table)
		case ok:
			m.MaxEntries, m.Pinning = have.MaxEntries(), ebpf.PinNone
			replace[table] = have
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		return nil, fmt.Errorf("load %s: %w\n%+v", name, err, verifier)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	t.closers = append(t.closers, func() error { coll.Close(); return nil })
	return coll.Programs[name], nil
}

// program returns the copy of a program.
func (t *Tracer) program(name string) (*program, error) {
	if p := t.loaded[name]; p != nil {
		return p, nil
	}
	for _, object := range objects.Programs() {
		spec, err := object.Load()
		if err != nil {
			return nil, fmt.Errorf("parse object %s: %w", object.Name, err)
		}
		if spec.Programs[name] == nil {
			continue
		}
		for constant, value := range t.opts.Constants {
			if v, ok := spec.Variables[constant]; ok {
				if err := v.Set(value); err != nil {
					return nil, fmt.Errorf("constant %s: %w", constant, err)
				}
			}
		}
		return t.copyOf(spec, name)
	}
	return nil, fmt.Errorf("program %s: not in any object", name)
}

func (t *Tracer) copyOf(spec *ebpf.CollectionSpec, name string) (*program, error) {
	for table, size := range map[string]uint32{tableSteps: stepsSpec().ValueSize, tableSends: sentSize, tableArrivals: cameSize} {
		spec.Maps[table] = &ebpf.MapSpec{Name: table, Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1}
	}
	p := &program{}
	if err := spec.Types.TypeByName("pkt", &p.packet); err != nil {
		return nil, fmt.Errorf("struct pkt of %s: %w", name, err)
	}
	ps := spec.Programs[name]
	p.stages = noteStages(ps)
	ps.Instructions = noteHelpers(ps.Instructions)
	var err error
	if p.Program, err = t.loadOne(spec, name); err != nil {
		return nil, err
	}
	t.loaded[name] = p
	return p, nil
}

// Current returns an error if a program in force isn't the one that would be
// traced: an agent of another version runs, or none has run since the upgrade.
// Of a copy in its place, which notes what is dropped, that can't be told.
func (t *Tracer) Current() error {
	pins, err := filepath.Glob(filepath.Join(t.dir, "..", "links", "nic-*-in"))
	if err != nil || len(pins) == 0 {
		return err
	}
	l, err := link.LoadPinnedLink(pins[0], nil)
	if err != nil {
		return fmt.Errorf("open link %s: %w", pins[0], err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link %s: %w", pins[0], err)
	}
	p, err := ebpf.NewProgramFromID(info.Program)
	if errors.Is(err, unix.EPERM) {
		return nil // who may load programs may not always look at others'
	}
	if err != nil {
		return fmt.Errorf("open program of %s: %w", pins[0], err)
	}
	defer p.Close()
	have, err := p.Info()
	if err != nil {
		return fmt.Errorf("read program of %s: %w", pins[0], err)
	}
	if watched, err := losses.IsCopy(have); watched || err != nil {
		return err
	}
	spec, err := objects.LoadTcUplink()
	if err != nil {
		return fmt.Errorf("parse object tc_uplink: %w", err)
	}
	ours, err := t.loadOne(spec, "tc_uplink_in")
	if err != nil {
		return err
	}
	want, err := ours.Info()
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	if want.Tag != have.Tag {
		return errors.New("the programs in force are of another version than this trace: start the agent of this version, or use the other's patchbayctl")
	}
	return nil
}
