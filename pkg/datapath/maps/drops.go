// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Drop is how much was dropped for one reason since the maps were made.
type Drop struct {
	Reason         string // of enum drop_reason, as in "pod-source"
	Packets, Bytes uint64
}

// Drops owns the map drops.
type Drops struct {
	m       *ebpf.Map
	reasons []string // by number; empty: reserved
}

// NewDrops reads the reasons' names out of the programs' own types.
func NewDrops(m *ebpf.Map) (*Drops, error) {
	reasons, err := Reasons()
	if err != nil {
		return nil, err
	}
	return &Drops{m: m, reasons: reasons}, nil
}

// Reasons returns the names of all reasons, by number.
func Reasons() ([]string, error) {
	spec, err := objects.LoadMap()
	if err != nil {
		return nil, fmt.Errorf("parse maps: %w", err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("drop_reason", &enum); err != nil {
		return nil, fmt.Errorf("find drop reasons: %w", err)
	}
	reasons := make([]string, len(enum.Values))
	for _, v := range enum.Values {
		name, ok := strings.CutPrefix(v.Name, "DROP_")
		if ok && v.Value < uint64(len(reasons)) {
			reasons[v.Value] = strings.ReplaceAll(strings.ToLower(name), "_", "-")
		}
	}
	return reasons, nil
}

// List returns all reasons that were ever counted, in the order of the enum.
func (d *Drops) List() ([]Drop, error) {
	var drops []Drop
	for i, reason := range d.reasons {
		var perCPU []objects.MapDropCount
		err := d.m.Lookup(uint32(i), &perCPU)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read drops of %s: %w", reason, err)
		}
		drop := Drop{Reason: reason}
		for _, c := range perCPU {
			drop.Packets += c.Packets
			drop.Bytes += c.Bytes
		}
		if reason != "" && drop.Packets > 0 {
			drops = append(drops, drop)
		}
	}
	return drops, nil
}
