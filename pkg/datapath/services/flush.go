// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// flush deletes the flows of UDP backends that are gone, both directions. A TCP
// flow goes on until its ends close it, as with kube-proxy.
func (s *Services) flush(gone []uint32) error {
	if len(gone) == 0 {
		return nil
	}
	ids := make(map[uint32]bool, len(gone))
	for _, id := range gone {
		ids[id] = true
	}
	var errs []error
	for _, m := range []*ebpf.Map{s.maps.Flows, s.maps.FlowsNew} {
		if err := flush(m, ids); err != nil {
			errs = append(errs, fmt.Errorf("flush flows of %d backends: %w", len(gone), err))
		}
	}
	return errors.Join(errs...)
}

func flush(m *ebpf.Map, ids map[uint32]bool) error {
	var doomed []objects.MapFlowKey
	err := maps.EachFlow(m, func(key objects.MapFlowKey, flow *objects.MapFlow) {
		if key.Proto == uint8(service.UDP) && flow.Backend != 0 && ids[flow.Backend] {
			doomed = append(doomed, key)
		}
	})
	if err != nil {
		return err
	}
	for _, key := range doomed {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}
