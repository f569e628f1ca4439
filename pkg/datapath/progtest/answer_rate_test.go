// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"runtime"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// What we send by ourselves is bounded: above the rate a refused packet is dropped
// without a word.
func TestAnswerRate(t *testing.T) {
	n := newNode(t)
	n.settings = map[string]any{"reject_rate": uint32(2)}
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, fe: objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_REJECT)}})
	answered, first := 0, time.Now()
	for i := range 500 {
		r := n.run("tc_pod_in", packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: uint16(4000 + i), Dst: 80, Flags: packet.SYN}))
		if r.verdict == redirect {
			answered++
		}
	}
	ticks := int(time.Since(first)>>30) + 2
	if answered == 0 || answered > 2*ticks*runtime.NumCPU() || answered == 500 {
		t.Errorf("of 500 refused packets %d were answered, want two for each CPU in each of %d ticks at most", answered, ticks)
	}
}
