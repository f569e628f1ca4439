// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
)

// Tree is the content of a layer in the making, by path without the leading
// slash. Everything in it belongs to root.
type Tree struct {
	entries map[string]entry
}

type entry struct {
	header tar.Header
	data   []byte
}

// NewTree returns an empty tree.
func NewTree() *Tree { return &Tree{entries: map[string]entry{}} }

// Dir adds a directory and those above it.
func (t *Tree) Dir(name string, mode int64) {
	t.parents(name)
	t.entries[name] = entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

// Data adds a file.
func (t *Tree) Data(name string, mode int64, data []byte) {
	t.parents(name)
	t.entries[name] = entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data}
}

// Symlink adds a symbolic link to target.
func (t *Tree) Symlink(name, target string) {
	t.parents(name)
	t.entries[name] = entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Link adds a hard link to target, another path of the tree.
func (t *Tree) Link(name, target string) {
	t.parents(name)
	t.entries[name] = entry{header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}}
}

// File adds this machine's file source as name.
func (t *Tree) File(name, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	t.Data(name, int64(info.Mode().Perm()), data)
	return nil
}

var sharedObject = regexp.MustCompile(`/\S+`)

// Program adds this machine's program, found by PATH, as name, with the
// shared objects that it is linked to where the loader looks for them.
func (t *Tree) Program(name, program string) error {
	source, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if err := t.File(name, source); err != nil {
		return err
	}
	out, err := exec.Command("ldd", source).Output()
	if err != nil {
		return nil // a script or static: ldd says so by its status
	}
	for _, library := range sharedObject.FindAllString(string(out), -1) {
		if _, ok := t.entries[library[1:]]; ok {
			continue
		}
		if err := t.File(library[1:], library); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) parents(name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; !ok {
			t.entries[dir] = entry{header: tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}}
		}
	}
}

// Layer packs the tree, compressed well for a registry.
func (t *Tree) Layer() (*Layer, error) { return t.pack(gzip.BestCompression) }

// FastLayer packs the tree for an archive that stays on this machine.
func (t *Tree) FastLayer() (*Layer, error) { return t.pack(gzip.BestSpeed) }

func (t *Tree) pack(level int) (*Layer, error) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	// Hard links come after what they name.
	names := slices.SortedFunc(maps.Keys(t.entries), func(a, b string) int {
		la, lb := t.entries[a].header.Typeflag == tar.TypeLink, t.entries[b].header.Typeflag == tar.TypeLink
		switch {
		case la != lb && la:
			return 1
		case la != lb:
			return -1
		case a < b:
			return -1
		default:
			return 1
		}
	})
	for _, name := range names {
		e := t.entries[name]
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return compress(raw.Bytes(), level)
}
