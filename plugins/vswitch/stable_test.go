// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestStableAddresses gives machines their addresses again, static ones to whom
// they belong, and none that another machine on the switch has.
func TestStableAddresses(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		leases := filepath.Join(t.TempDir(), "nodeleases.db")
		args := func(container, extra string) *cni.Args {
			conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"inside","type":"patchbay-vswitch","switch":"internal",%s"ipam":{"type":"patchbay-ipam","leases":%q,
				"ranges":[[{"subnet":"172.31.0.0/24","rangeStart":"172.31.0.20","rangeEnd":"172.31.0.25","gateway":"172.31.0.1"}]],
				"static":[{"address":"172.31.0.24","name":"vm-s"},{"address":"172.31.0.25","mac":"02:00:00:00:00:25"}]}}`, extra, leases)
			return &cni.Args{ContainerID: container, Netns: l.inside.Path(), IfName: "eth0", StdinData: []byte(conf)}
		}
		plug := func(container, extra string) string {
			t.Helper()
			out, err := call(t, "ADD", add, args(container, extra))
			if err != nil {
				t.Fatal(err)
			}
			var result types100.Result
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatal(err)
			}
			if _, err := call(t, "DEL", del, args(container, extra)); err != nil {
				t.Fatal(err)
			}
			return strings.TrimSuffix(result.IPs[0].Address.String(), "/24")
		}
		other := netlab.New(t)
		netlab.Wire(t, l.here, "vm", other, "eth0")
		l.here.Exec(t, "ip", "link", "set", "vm", "master", "pb-int")
		other.Addr(t, "eth0", "172.31.0.21/24")

		named := func(name string) string { return `"args":{"cni":{"name":"` + name + `"}},` }
		for _, step := range []struct{ container, extra, want string }{
			{"id-1", named("vm-a"), "172.31.0.20"},
			{"id-2", named("vm-b"), "172.31.0.22"}, // .21 is another machine's
			{"id-3", named("vm-a"), "172.31.0.20"}, // made anew
			{"id-4", named("vm-s"), "172.31.0.24"},
			{"id-5", named("vm-m") + `"mac":"02:00:00:00:00:25",`, "172.31.0.25"},
			{"id-6", named("vm-b"), "172.31.0.22"},
			{"id-7", named("vm-c"), "172.31.0.23"},
		} {
			if got := plug(step.container, step.extra); got != step.want {
				t.Errorf("%s %s got %s, want %s", step.container, step.extra, got, step.want)
			}
		}
	})
}
