// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Map is a pinned map in numbers.
type Map struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Key     uint32 `json:"keySize"`
	Value   uint32 `json:"valueSize"`
	Room    uint32 `json:"room"`    // entries at most
	Entries int    `json:"entries"` // -1: not counted: all of an array's are there
}

// Maps counts the entries of the maps that are pinned below a directory.
func Maps(pinDir string) ([]Map, error) {
	pins, err := filepath.Glob(filepath.Join(pinDir, "v*", "maps", "*"))
	if err != nil {
		return nil, err
	}
	var out []Map
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, fmt.Errorf("open map %s: %w", pin, err)
		}
		out = append(out, summary(filepath.Base(pin), m))
		if err := m.Close(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Map) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func summary(name string, m *ebpf.Map) Map {
	s := Map{Name: name, Type: m.Type().String(), Key: m.KeySize(), Value: m.ValueSize(), Room: m.MaxEntries(), Entries: -1}
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
		s.Entries = count(m)
	}
	return s
}

// count walks the keys; programs that write meanwhile make it a little wrong,
// and never endless.
func count(m *ebpf.Map) int {
	entries := 0
	key, next := []byte(nil), make([]byte, m.KeySize())
	for range m.MaxEntries() {
		var err error
		if key == nil {
			err = m.NextKey(nil, &next)
		} else {
			err = m.NextKey(key, &next)
		}
		if err != nil {
			break
		}
		entries++
		key = append(key[:0], next...)
	}
	return entries
}
