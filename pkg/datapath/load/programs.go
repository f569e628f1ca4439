// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// loadPrograms loads the programs of every object on the opened maps.
func (s *Set) loadPrograms(constants map[string]any) error {
	known := map[string]bool{}
	for _, object := range objects.Programs() {
		spec, err := object.Load()
		if err != nil {
			return fmt.Errorf("parse object %s: %w", object.Name, err)
		}
		if err := setConstants(spec, constants, known); err != nil {
			return fmt.Errorf("object %s: %w", object.Name, err)
		}
		if err := s.loadObject(spec); err != nil {
			return fmt.Errorf("load object %s: %w", object.Name, err)
		}
	}
	for name := range constants {
		if !known[name] {
			return fmt.Errorf("constant %s: no object has it", name)
		}
	}
	return nil
}

func setConstants(spec *ebpf.CollectionSpec, constants map[string]any, known map[string]bool) error {
	for name, value := range constants {
		v, ok := spec.Variables[name]
		if !ok {
			continue
		}
		known[name] = true
		if err := v.Set(value); err != nil {
			return fmt.Errorf("constant %s: %w", name, err)
		}
	}
	return nil
}

func (s *Set) loadObject(spec *ebpf.CollectionSpec) error {
	shared := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if pinned, ok := s.Maps[name]; ok {
			shared[name] = pinned
			m.MaxEntries = pinned.MaxEntries()
			m.Pinning = ebpf.PinNone
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		return fmt.Errorf("%w\n%+v", err, verifier)
	}
	if err != nil {
		return err
	}
	// The collection's own maps are clones and its .rodata, which the programs hold.
	maps.Copy(s.Programs, coll.Programs)
	clear(coll.Programs)
	coll.Close()
	return nil
}
