// SPDX-License-Identifier: Apache-2.0

package nic

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// roles are those of all interfaces just now, with the reason.
func roles(t *testing.T, hints Hints) map[string]string {
	t.Helper()
	links, err := netdev.Links()
	if err != nil {
		t.Fatal(err)
	}
	nics, _ := Assign(links, nil, hints)
	out := map[string]string{}
	for _, n := range nics {
		out[n.Name] = n.Role.String() + ": " + n.Reason
	}
	return out
}

// Bonds and VLANs are NICs; what they are made of isn't.
func TestBondAndVLAN(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		for _, name := range []string{"eth0", "eth1", "eth2"} {
			netlab.Wire(t, here, name, peer, name)
		}
		for _, args := range []string{"bond0 type bond", "link eth2 name eth2.30 type vlan id 30"} {
			if _, err := here.TryExec("ip", append([]string{"link", "add"}, strings.Fields(args)...)...); err != nil {
				t.Skipf("this kernel: %s: %v", args, err)
			}
		}
		for _, name := range []string{"eth0", "eth1"} {
			here.Down(t, name)
			here.Exec(t, "ip", "link", "set", name, "master", "bond0")
		}
		here.Up(t, "bond0")
		here.Up(t, "eth2.30")
		here.Addr(t, "bond0", "172.31.0.10/24")
		here.Addr(t, "eth2.30", "192.168.50.10/24")
		hints := Hints{NodeAddrs: []netip.Addr{netip.MustParseAddr("172.31.0.10")}, Pools: map[string][]netip.Addr{"services": {netip.MustParseAddr("192.168.50.200")}}}
		want := map[string]string{
			"bond0":   "internal: holds the node's InternalIP 172.31.0.10",
			"eth0":    "ignored: is a port of another interface",
			"eth1":    "ignored: is a port of another interface",
			"eth2":    "ignored: has no address",
			"eth2.30": "external: holds an address in the subnet of pool services",
		}
		if diff := cmp.Diff(want, roles(t, hints)); diff != "" {
			t.Errorf("roles (-want +got):\n%s", diff)
		}
		here.Exec(t, "ip", "link", "del", "eth2.30")
		here.Addr(t, "eth2", "192.168.50.10/24")
		if got := roles(t, hints)["eth2"]; !strings.HasPrefix(got, "external") {
			t.Errorf("eth2 without its VLAN: %s", got)
		}
	})
}
