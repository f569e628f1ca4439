// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Lookup reads an entry of a map as the copies see it.
func (r *Replica) Lookup(name string, key, value any) error { return r.maps[name].Lookup(key, value) }

// Iterate goes through a map as the copies see it.
func (r *Replica) Iterate(name string) *ebpf.MapIterator { return r.maps[name].Iterate() }

// NICs lists the NICs with programs.
func (r *Replica) NICs() ([]maps.NIC, error) { return maps.NICs{Map: r.maps["nics"]}.List() }

// InForce opens a map that programs write, to read what is in force. The caller
// closes it.
func (r *Replica) InForce(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(r.dir+"/"+name, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", name, err)
	}
	return m, nil
}

// Reason is the drop reason that a stage returned; empty: it dropped nothing.
func (r *Replica) Reason(ret int32) string {
	if ret >= 0 || int(-ret) >= len(r.reasons) {
		return ""
	}
	return r.reasons[-ret]
}

// Choose runs the program that only chooses, and returns a backend's id.
func (r *Replica) Choose(packet []byte) (uint32, error) {
	spec, err := objects.LoadChoose()
	if err != nil {
		return 0, fmt.Errorf("parse object choose: %w", err)
	}
	program, err := r.loadOne(spec, "choose")
	if err != nil {
		return 0, err
	}
	id, err := program.Run(&ebpf.RunOptions{Data: packet}) // scope 0: the cluster's
	if err != nil {
		return 0, fmt.Errorf("run choose: %w", err)
	}
	return id, nil
}
