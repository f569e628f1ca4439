// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestLargeDatagrams checks datagrams that their sender has to fragment. Where
// the fragments don't fit the tunnel, the sender may lose some before it knows.
func TestLargeDatagrams(t *testing.T) {
	for _, mode := range []struct {
		name      string
		tunnelled bool
	}{{"native", false}, {"tunnel", true}} {
		t.Run(mode.name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				l := newLab(t, mode.tunnelled)
				l.setServices(t)
				for _, f := range families() {
					t.Run(f.name, func(t *testing.T) {
						l.wantLarge(t, l.client, f, mode.tunnelled)
						l.wantLarge(t, l.nodes[1].pods[0].ns, f, mode.tunnelled)
					})
				}
			})
		})
	}
}

// wantLarge asks the load balancer with 4,000 bytes until 20 answers have come
// in a row; only where losses are allowed may there be any before.
func (l *lab) wantLarge(t *testing.T, from *netlab.Namespace, f family, losses bool) {
	t.Helper()
	for row, lost := 0, 0; row < 20; row++ {
		_, err := askFrom(from, "udp", net.JoinHostPort(f.loadBalancer, "80"), strings.Repeat("x", 4000))
		if err == nil {
			continue
		}
		if lost++; !losses || lost > 5 {
			t.Fatalf("%d lost, the last: %v; drops: %s", lost, err, l.drops(t))
		}
		row = -1
	}
}
