// SPDX-License-Identifier: Apache-2.0

// Package maps has a typed owner for each of the small maps: what the agent
// writes and the programs read, one entry for one thing. Owners keep no copy:
// they compare with what the map holds, so a restart changes nothing.
package maps

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// sync makes a map hold exactly want. Keys are written in the order of less
// and deleted in the reverse: with prefixes, the most specific first, so that
// no address meanwhile falls to a shorter prefix that isn't for it.
func sync[K, V comparable](m *ebpf.Map, want map[K]V, compare func(a, b K) int) error {
	have, err := read[K, V](m)
	if err != nil {
		return err
	}
	var write, remove []K
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			write = append(write, key)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			remove = append(remove, key)
		}
	}
	slices.SortFunc(write, compare)
	slices.SortFunc(remove, func(a, b K) int { return compare(b, a) })
	for _, key := range write {
		if err := m.Update(key, want[key], ebpf.UpdateAny); err != nil {
			return fmt.Errorf("write %+v: %w", key, err)
		}
	}
	for _, key := range remove {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete %+v: %w", key, err)
		}
	}
	return nil
}

// read returns all entries of a map.
func read[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	all := map[K]V{}
	var key K
	var value V
	it := m.Iterate()
	for it.Next(&key, &value) {
		all[key] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return all, nil
}

// unordered is for maps in which the order of writes doesn't matter.
func unordered[K any](K, K) int { return 0 }
