// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"testing"

	"github.com/patchbay-net/patchbay/test/packet"
)

func TestPodToPodOnNode(t *testing.T) {
	n := newNode(t)
	in := packet.Build(
		packet.Eth{Src: macA, Dst: hostMAC},
		packet.IPv4{Src: podA, Dst: podA2},
		packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN},
	)
	out := packet.Build(
		packet.Eth{Src: hostMAC, Dst: macA2},
		packet.IPv4{Src: podA, Dst: podA2},
		packet.TCP{Src: 4000, Dst: 80, Flags: packet.SYN},
	)
	n.want(n.run("tc_pod_in", in), redirect, out)
}
