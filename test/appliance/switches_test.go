// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// TestSwitchesByHand makes and removes a device's switches with patchbayctl alone,
// where no agent runs.
func TestSwitchesByHand(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		device, cameras := netlab.StartNode(t, "device"), netlab.New(t)
		netlab.Wire(t, device.Net, "port3", cameras, "eth0")
		device.Net.Addr(t, "port3", "192.168.50.1/24")
		device.Exec(t, "ip", "link", "add", "br9", "type", "bridge")
		before := device.Exec(t, "ip", "-br", "-4", "addr", "show", "dev", "port3")
		ctl := func(args ...string) (string, error) {
			out, err := device.Command(filepath.Join(os.Getenv(site.BinEnv), "patchbayctl"), args...).CombinedOutput()
			return string(out), err
		}
		for _, step := range []struct {
			args string
			want string
			ok   bool
		}{
			{"switches create internal --address 172.31.0.1/24", "until the next boot", true},
			{"switches enable-port br9", "port br9 is a bridge, not a port of the device", false},
			{"switches enable-port port9", "port port9: no such interface", false},
			{"switches create internal", "needs an address", false},
			{"switches create other", "not internal or external", false},
			{"switches enable-port port3 --mtu 1600", "pb-ext", true},
			{"switches", "port3", true},
			{"switches internal", "172.31.0.1/24", true},
			{"routes add port3 10.0.0.0/8 --next-hop 192.168.50.9", "this is the device's host", false},
			{"switches disable-port port4", "port port4 is not enabled for compute", false},
			{"switches disable-port port3", "", true},
		} {
			args := strings.Fields(step.args)
			if step.args == "switches internal" {
				args = append(args, "-o", "wide")
			}
			out, err := ctl(args...)
			if (err == nil) != step.ok || !strings.Contains(out, step.want) {
				t.Errorf("%s: %v: %s, want %q", step.args, err, out, step.want)
			}
		}
		if after := device.Exec(t, "ip", "-br", "-4", "addr", "show", "dev", "port3"); after != before {
			t.Errorf("port3 was %s, is %s", before, after)
		}
		device.Exec(t, "ip", "link", "show", "pb-int", "up")
		if _, err := device.Net.TryExec("ip", "link", "show", "pb-ext"); err == nil {
			t.Error("the external switch is left")
		}
	})
}
