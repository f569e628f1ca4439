// SPDX-License-Identifier: Apache-2.0

// Package replica loads copies of the programs in force and runs them on
// packets. What the programs write is a private copy of the entries that the
// packet could meet, so nothing is changed and nothing is sent. The copies run
// the very same instructions, with two exceptions: calls to the kernel's redirect
// and tunnel-key helpers, and the beginnings and ends of stages, go through a few
// instructions that note what was asked for.
package replica

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/patchbay-net/patchbay/pkg/datapath/load"
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

// Replica is a set of copies. It serves one caller.
type Replica struct {
	dir       string // of the pinned maps
	constants map[string]any
	maps      map[string]*ebpf.Map
	loaded    map[string]*program
	route     *ebpf.Program
	reasons   []string
	closers   []func() error
}

// program is a copy of a program.
type program struct {
	*ebpf.Program
	stages []stage
	packet *btf.Struct // struct pkt
}

// Open opens the maps pinned below a directory, which datapath.Options names as
// PinDir. The constants are datapath.Options' Settings. Nothing is loaded before
// it is needed.
func Open(pinDir string, constants map[string]any) (_ *Replica, err error) {
	r := &Replica{
		dir: filepath.Join(pinDir, "v"+strconv.Itoa(load.Schema), "maps"), constants: constants,
		maps: map[string]*ebpf.Map{}, loaded: map[string]*program{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for _, name := range shared() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(r.dir, name), nil)
		if err != nil {
			return nil, fmt.Errorf("open map %s (is Patchbay in force on this node?): %w", name, err)
		}
		r.keep(name, m)
	}
	if r.reasons, err = maps.Reasons(); err != nil {
		return nil, err
	}
	if err := r.makePrivate(); err != nil {
		return nil, err
	}
	return r, r.makeOwn()
}

// Close removes the copies.
func (r *Replica) Close() error {
	var errs []error
	for _, f := range slices.Backward(r.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (r *Replica) keep(name string, m *ebpf.Map) {
	r.maps[name] = m
	r.closers = append(r.closers, m.Close)
}

// privateEntries is room for what one packet and its answers meet, in tables
// that take their memory at once and let the oldest go.
const privateEntries = 8192

// size makes a private map as large as the one in force, or as it needs to be.
func (r *Replica) size(name string, m *ebpf.MapSpec) error {
	switch m.Type {
	case ebpf.LRUHash:
		m.MaxEntries = privateEntries
	case ebpf.Hash:
		old, err := r.InForce(name)
		if err != nil {
			return err
		}
		defer old.Close()
		m.MaxEntries = old.MaxEntries()
	}
	return nil
}

// makePrivate makes the maps that programs write, empty.
func (r *Replica) makePrivate() error {
	spec, err := objects.LoadMap()
	if err != nil {
		return fmt.Errorf("parse maps: %w", err)
	}
	for name, m := range spec.Maps {
		if slices.Contains(shared(), name) || strings.HasPrefix(name, ".") {
			continue
		}
		if err := r.size(name, m); err != nil {
			return err
		}
		if err := r.make(name, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) make(name string, spec *ebpf.MapSpec) error {
	spec.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s: %w", name, err)
	}
	r.keep(name, m)
	return nil
}

// makeOwn makes the copies' additional tables and the program that asks for
// routes.
func (r *Replica) makeOwn() error {
	specs := []*ebpf.MapSpec{stepsSpec()}
	for name, size := range map[string]uint32{tableSends: sentSize, tableArrivals: cameSize, tableRoutes: fibSize} {
		specs = append(specs, &ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	}
	own := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}}
	for _, spec := range specs {
		if err := r.make(spec.Name, spec); err != nil {
			return err
		}
		own.Maps[spec.Name] = spec
	}
	own.Programs = map[string]*ebpf.ProgramSpec{"route": routeProgram()}
	var err error
	r.route, err = r.loadOne(own, "route")
	return err
}

// loadOne loads one program of a collection on the maps that there are.
func (r *Replica) loadOne(spec *ebpf.CollectionSpec, name string) (*ebpf.Program, error) {
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
		have, ok := r.maps[table]
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
	r.closers = append(r.closers, func() error { coll.Close(); return nil })
	return coll.Programs[name], nil
}

// program returns the copy of a program.
func (r *Replica) program(name string) (*program, error) {
	if p := r.loaded[name]; p != nil {
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
		for constant, value := range r.constants {
			if v, ok := spec.Variables[constant]; ok {
				if err := v.Set(value); err != nil {
					return nil, fmt.Errorf("constant %s: %w", constant, err)
				}
			}
		}
		return r.copyOf(spec, name)
	}
	return nil, fmt.Errorf("program %s: not in any object", name)
}

func (r *Replica) copyOf(spec *ebpf.CollectionSpec, name string) (*program, error) {
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
	if p.Program, err = r.loadOne(spec, name); err != nil {
		return nil, err
	}
	r.loaded[name] = p
	return p, nil
}
