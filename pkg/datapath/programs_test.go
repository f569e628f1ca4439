// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestProgramsWithoutSysAdmin: what hangs on a NIC has its names for an agent
// that has no more capabilities than it needs, while somebody looks at drops too.
func TestProgramsWithoutSysAdmin(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		self, outside := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, self, "ext", outside, "eth0")
		d, err := datapath.Open(datapath.Options{PinDir: pinDir})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		index := self.Index(t, "ext")
		err = d.SetNIC(datapath.NIC{Index: index, Name: "ext", Role: datapath.External, MAC: self.MAC(t, "ext"), MTU: 1500})
		if err != nil {
			t.Fatal(err)
		}
		check := func(when string) {
			t.Helper()
			got, err := programsWithout(t, d, index)
			if diff := cmp.Diff([]string{"ingress tc_uplink_in", "egress tc_uplink_out"}, got); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", when, err, diff)
			}
		}
		check("by itself")
		if _, err := d.Lost(time.Now()); err != nil {
			t.Fatal(err)
		}
		check("while somebody looks")
	})
}

// programsWithout asks on a thread without CAP_SYS_ADMIN.
func programsWithout(t *testing.T, d *datapath.Datapath, index int) (names []string, err error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var full [2]unix.CapUserData
	if err := unix.Capget(&head, &full[0]); err != nil {
		t.Fatal(err)
	}
	less := full
	less[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&head, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&head, &full[0]); err != nil {
			t.Fatal(err)
		}
	}()
	return d.Programs(index)
}
