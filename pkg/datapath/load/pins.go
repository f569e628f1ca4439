// SPDX-License-Identifier: Apache-2.0

// Package load brings the programs of package objects into the kernel, on
// maps that are pinned and outlive the process.
//
// On bpffs, below the pin directory:
//
//	v<schema>/maps/<map>     every map of the object "map"
//	v<schema>/links/<name>   the entry links; package attach makes them
//
// A first start makes the maps in v<schema>-new and renames it: that rename is
// the commit point, before it nothing counts. A later start takes the maps
// that are there. Programs are loaded anew each time, on those maps, and take
// over when the entry links are updated; until then the old ones run.
package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Schema is the version of the maps' layout. Whoever changes a key, a value or
// the meaning of either raises it and writes the migration.
const Schema = 1

// ErrSchema is returned by Open if maps of another layout are pinned. They
// stay untouched.
var ErrSchema = errors.New("pinned maps have another layout")

// Options say what to load.
type Options struct {
	PinDir    string            // directory on bpffs; its parent is mounted if need be
	Sizes     map[string]uint32 // entries by map name, for maps made now; the rest as in maps.h
	Constants map[string]any    // volatile const variables by name
	Log       *slog.Logger
}

// Set is what was loaded: all maps and programs by name.
type Set struct {
	Maps     map[string]*ebpf.Map
	Programs map[string]*ebpf.Program
	Fresh    bool // the maps were made by this call, and are empty

	dir  string
	lock *os.File
}

// Open loads all programs on the pinned maps, which it makes if there are
// none. It returns ErrInUse or ErrSchema; in these cases and on any other
// error what ran before runs on unchanged.
func Open(opts Options) (_ *Set, err error) {
	if err := ensureBPFFS(opts.PinDir); err != nil {
		return nil, err
	}
	lock, err := lockDir(opts.PinDir)
	if err != nil {
		return nil, err
	}
	s := &Set{
		Maps: map[string]*ebpf.Map{}, Programs: map[string]*ebpf.Program{},
		dir: filepath.Join(opts.PinDir, version(Schema)), lock: lock,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := refuseOthers(opts.PinDir); err != nil {
		return nil, err
	}
	if err := s.openMaps(opts); err != nil {
		return nil, err
	}
	return s, s.loadPrograms(opts.Constants)
}

// Close closes maps and programs here; what is pinned or attached stays.
func (s *Set) Close() error {
	var errs []error
	for _, p := range s.Programs {
		errs = append(errs, p.Close())
	}
	for _, m := range s.Maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Link is the path for the pin of an entry link.
func (s *Set) Link(name string) string { return filepath.Join(s.dir, "links", name) }

// Links are the names of all pinned entry links.
func (s *Set) Links() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "links"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// openMaps opens every map, or makes them all.
func (s *Set) openMaps(opts Options) error {
	spec, err := objects.LoadMap()
	if err != nil {
		return fmt.Errorf("parse maps: %w", err)
	}
	for name, entries := range opts.Sizes {
		m, ok := spec.Maps[name]
		if !ok {
			return fmt.Errorf("size of map %s: no such map", name)
		}
		m.MaxEntries = entries
	}
	dir := s.dir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		s.Fresh = true
		dir += "-new" // bpffs keeps names with dots for itself
		if err := makeDirs(dir); err != nil {
			return err
		}
	}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		if err := s.openMap(filepath.Join(dir, "maps", name), m, opts.Log); err != nil {
			return err
		}
	}
	if !s.Fresh {
		return nil
	}
	// Commit point: from here on these are the maps.
	if err := os.Rename(dir, s.dir); err != nil {
		return fmt.Errorf("commit maps: %w", err)
	}
	return nil
}

// openMap opens a pinned map, or makes and pins one: all of them at a first
// start, later those that a newer version of the same schema adds.
func (s *Set) openMap(pin string, spec *ebpf.MapSpec, log *slog.Logger) error {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return s.makeMap(pin, spec)
	}
	if err != nil {
		return fmt.Errorf("open map %s: %w", pin, err)
	}
	s.Maps[spec.Name] = m
	if m.MaxEntries() != spec.MaxEntries && spec.MaxEntries != 0 {
		log.Warn("pinned map keeps its size", "map", spec.Name, "entries", m.MaxEntries(), "wanted", spec.MaxEntries)
		spec.MaxEntries = m.MaxEntries()
	}
	if err := spec.Compatible(m); err != nil {
		return fmt.Errorf("map %s: %w: %w (run patchbayd cleanup to start anew)", pin, ErrSchema, err)
	}
	return nil
}

func (s *Set) makeMap(pin string, spec *ebpf.MapSpec) error {
	spec.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s: %w", spec.Name, err)
	}
	s.Maps[spec.Name] = m
	if err := m.Pin(pin); err != nil {
		return fmt.Errorf("pin map %s: %w", pin, err)
	}
	return nil
}

// Lock takes the pin directory for this process; the function it returns gives
// it back. It returns ErrInUse if another process has it.
func Lock(pinDir string) (unlock func() error, err error) {
	f, err := lockDir(pinDir)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

// Devices are the interfaces that the pinned maps name, of any schema: pods'
// and NICs.
func Devices(pinDir string) ([]int, error) {
	var devices []int
	// In every schema an endpoint's value and a NIC's key begin with the interface.
	for name, index := range map[string]func(key, value []byte) []byte{
		"endpoints": func(_, value []byte) []byte { return value },
		"nics":      func(key, _ []byte) []byte { return key },
	} {
		pins, err := filepath.Glob(filepath.Join(pinDir, "v*", "maps", name))
		if err != nil {
			return nil, err
		}
		for _, pin := range pins {
			found, err := readDevices(pin, index)
			if err != nil {
				return nil, fmt.Errorf("read map %s: %w", pin, err)
			}
			devices = append(devices, found...)
		}
	}
	slices.Sort(devices)
	return slices.Compact(devices), nil
}

func readDevices(pin string, index func(key, value []byte) []byte) ([]int, error) {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var devices []int
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		devices = append(devices, int(binary.NativeEndian.Uint32(index(key, value))))
	}
	return devices, it.Err()
}

// makeDirs makes the directories of a version, clearing what an interrupted
// start has left.
func makeDirs(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear interrupted start: %w", err)
	}
	for _, sub := range []string{"", "maps", "links"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	return nil
}

// refuseOthers returns ErrSchema if another version's maps are pinned.
func refuseOthers(pinDir string) error {
	entries, err := os.ReadDir(pinDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), "v"); ok && n != strconv.Itoa(Schema) {
			if _, err := strconv.Atoi(n); err == nil {
				return fmt.Errorf("pins of schema %s in %s: %w, this is %d (run patchbayd cleanup to start anew)",
					n, pinDir, ErrSchema, Schema)
			}
		}
	}
	return nil
}

func version(schema int) string { return "v" + strconv.Itoa(schema) }
