// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
)

// nicView adds to what is told of the NICs what else is known of them.
type nicView struct {
	mu   sync.Mutex
	nics []nic.NIC
}

// Part follows the NICs and reports what of their addresses is dynamic.
func (v *nicView) Part() parts.Part {
	return parts.Part{
		Name: "nics",
		Sync: func(_ context.Context, o parts.Objects) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.nics = o.NICs
			return nil
		},
		Report: func(status *v1alpha1.NodeNetworkStateStatus) {
			for i := range status.NICs {
				n, _ := v.named(status.NICs[i].Name)
				status.NICs[i].DynamicFamilies = n.Dynamic.Families()
			}
		},
	}
}

func (v *nicView) named(name string) (nic.NIC, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.nics {
		if n.Name == name {
			return n, true
		}
	}
	return nic.NIC{}, false
}

// Serve answers for the NICs in the place of what does so far.
func (v *nicView) Serve(h agentapi.Handler, list func() []agentapi.NIC, dp *datapath.Datapath) {
	h[agentapi.OpNICs] = agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.NIC, error) {
		nics := list()
		for i := range nics {
			n, _ := v.named(nics[i].Name)
			nics[i].AltNames, nics[i].Dynamic = n.AltNames, n.Dynamic.Families()
			programs, err := dp.Programs(nics[i].Index)
			if nics[i].Programs = programs; err != nil {
				nics[i].Problem = err.Error()
			}
		}
		return nics, nil
	})
}
