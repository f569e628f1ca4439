// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func quiet(t *testing.T) *Addresses {
	a, err := New(Options{Node: "a", Datapath: &fakeDatapath{list: map[netip.Addr]datapath.Announcement{}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}) }

// TestJudge: what nobody has is told before strangers are looked at, and each of
// those is looked at once.
func TestJudge(t *testing.T) {
	a := quiet(t)
	proxy, stranger, node := [6]byte{2, 1}, [6]byte{2, 2}, [6]byte{2, 3}
	a.macs = map[[6]byte]bool{node: true}
	var said []string
	a.judge([]netip.Addr{vip(1), vip(2), vip(3), vip(4), vip(5), vip(6)},
		map[netip.Addr][6]byte{vip(1): proxy, vip(2): stranger, vip(4): proxy, vip(5): stranger, vip(6): node},
		func(addr netip.Addr, mac [6]byte) { said = append(said, fmt.Sprint(addr, " ", mac[1])) },
		func(mac [6]byte) bool { said = append(said, fmt.Sprint("look ", mac[1])); return mac == stranger })
	want := []string{"192.0.0.3 0", "192.0.0.6 0", "look 1", "192.0.0.1 0", "look 2", "192.0.0.2 2", "192.0.0.4 0", "192.0.0.5 2"}
	if !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

// TestManyProbes: no question is answered unasked, however many there are.
func TestManyProbes(t *testing.T) {
	a := quiet(t)
	for i := range 3000 {
		(&kernel{a}).Probe(vip(i), 1+i%2)
	}
	asked := a.questions()
	if len(asked[1]) != 1500 || len(asked[2]) != 1500 || len(a.questions()) != 0 {
		t.Errorf("%d and %d questions, want 1500 each, once", len(asked[1]), len(asked[2]))
	}
}

// TestSyncGroups: a NIC that can't join keeps none of the others from it.
func TestSyncGroups(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here := netlab.Open(t, "/proc/self/ns/net")
		netlab.Wire(t, here, "eth0", netlab.New(t), "eth0")
		gone := nic.NIC{Role: nic.External, Link: netdev.Link{Index: 9999, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix("fd00:1::1/64")}}}
		eth0 := nic.NIC{Role: nic.External, Link: netdev.Link{Index: here.Index(t, "eth0"), Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix("fd00:2::1/64")}}}
		var wishes []plan.Wish
		for _, addr := range []string{"fd00:1::aa:1234", "fd00:2::bb:5678"} {
			wishes = append(wishes, plan.Wish{Request: announce.Request{Addr: netip.MustParseAddr(addr)}})
		}
		if err := quiet(t).syncGroups([]nic.NIC{gone, eth0}, wishes); err == nil {
			t.Error("no word of the NIC that is gone")
		}
		if out := here.Exec(t, "ip", "maddress", "show", "dev", "eth0"); !strings.Contains(out, "ff02::1:ffbb:5678") {
			t.Errorf("groups:\n%s", out)
		}
	})
}
