// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// check compiles to a temporary directory and compares: byte for byte if the
// compiler is the recorded one, else by what the kernel would run.
func check(c *compiler) error {
	dir, err := os.MkdirTemp("", "patchbay-generate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := generate(c, dir); err != nil {
		return err
	}
	recorded, err := os.ReadFile(filepath.Join(objectsDir, versionFile))
	if err != nil {
		return err
	}
	same, how := sameBytes, "bytes"
	if strings.TrimSpace(string(recorded)) != c.version {
		same, how = sameCode, fmt.Sprintf("instruction streams (made by %q, here is %q)",
			strings.TrimSpace(string(recorded)), c.version)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*_bpfel.*"))
	if err != nil {
		return err
	}
	errs := []error{extraFiles(made)}
	for _, file := range made {
		errs = append(errs, same(filepath.Join(objectsDir, filepath.Base(file)), file))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nrun make generate and commit the result", err)
	}
	fmt.Printf("gen: %d files verified by %s\n", len(made), how)
	return nil
}

// extraFiles reports committed objects whose source is gone.
func extraFiles(made []string) error {
	committed, err := filepath.Glob(filepath.Join(objectsDir, "*_bpfel.*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range committed {
		if !slices.ContainsFunc(made, func(m string) bool { return filepath.Base(m) == filepath.Base(file) }) {
			errs = append(errs, fmt.Errorf("%s: no source", file))
		}
	}
	return errors.Join(errs...)
}

func sameBytes(committed, made string) error {
	a, err := os.ReadFile(committed)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(made)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("%s: differs from its source", committed)
	}
	return nil
}

// sameCode compares the instructions of each program; Go files, which
// compilers don't influence, are compared byte for byte.
func sameCode(committed, made string) error {
	if filepath.Ext(made) == ".go" {
		return sameBytes(committed, made)
	}
	a, err := instructions(committed)
	if err != nil {
		return err
	}
	b, err := instructions(made)
	if err != nil {
		return err
	}
	if !maps.Equal(a, b) {
		return fmt.Errorf("%s: instructions differ from its source", committed)
	}
	return nil
}

func instructions(file string) (map[string]string, error) {
	spec, err := ebpf.LoadCollectionSpec(file)
	if err != nil {
		return nil, err
	}
	programs := map[string]string{}
	for name, p := range spec.Programs {
		var b strings.Builder
		for _, ins := range p.Instructions {
			fmt.Fprintf(&b, "%v %v\n", ins, ins.Reference())
		}
		programs[name] = b.String()
	}
	return programs, nil
}
