// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestPortsName gives a leg on a port's switch the port's name beside its own.
func TestPortsName(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		here.Exec(t, "ip", "link", "set", "pb-int", "alias", "patchbay: Port3 vlan 0, before: mtu 1500")
		if _, err := Create(l); err != nil {
			t.Fatal(err)
		}
		if out := inside.Exec(t, "ip", "link", "show", "Port3"); !strings.Contains(out, "eth0@") {
			t.Errorf("Port3 is %s, want eth0", out)
		}
	})
}
