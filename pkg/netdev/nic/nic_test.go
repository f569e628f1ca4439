// SPDX-License-Identifier: Apache-2.0

package nic

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

func link(index int, name string, addrs ...string) netdev.Link {
	l := netdev.Link{Index: index, Name: name, Kind: "device", MAC: [6]byte{2, 0, 0, 0, 0, byte(index)}, Up: true, Carrier: true}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

func TestAssign(t *testing.T) {
	hints := Hints{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("192.168.1.1")},
		Pools:     map[string][]netip.Addr{"lan": {netip.MustParseAddr("192.168.7.100")}},
	}
	gateway := link(4, "eth3", "172.16.0.1/24")
	gateway.DefaultRoute = true
	port := link(5, "eth4", "192.168.7.9/24")
	port.Master = 9
	tunnel := link(6, "vx", "192.168.7.8/24")
	tunnel.Kind = "vxlan"
	tests := []struct {
		name    string
		link    netdev.Link
		rules   []Rule
		role    Role
		reason  string
		warning string
	}{
		{"InternalIP", link(1, "eth0", "192.168.1.1/24"), nil, Internal, "InternalIP 192.168.1.1", ""},
		{"pool's subnet", link(2, "eth1", "192.168.7.1/24"), nil, External, "pool lan", ""},
		{"both on one", link(1, "eth0", "192.168.1.1/24", "192.168.7.1/24"), nil, Internal | External, "; ", "nics[]"},
		{"default route", gateway, nil, External, "default route", ""},
		{"nothing known", link(3, "eth2", "10.5.0.1/24"), nil, Ignored, "neither", ""},
		{"no address", link(3, "eth2"), nil, Ignored, "no address", ""},
		{"port of a bridge", port, nil, Ignored, "port of another", ""},
		{"tunnel", tunnel, nil, Ignored, "vxlan device", ""},
		{"by name", link(3, "eth2"), []Rule{{Name: "eth2", Role: External}}, External, "configured by name eth2", ""},
		{"by MAC", link(3, "eth2"), []Rule{{MAC: "02:00:00:00:00:03", Role: Internal}}, Internal, "MAC", ""},
		{"by subnet", link(3, "eth2", "10.5.0.1/24"), []Rule{{Subnet: netip.MustParsePrefix("10.5.0.0/16"), Role: Internal}}, Internal, "subnet", ""},
		{"first rule wins", link(3, "eth2"), []Rule{{Name: "eth2", Role: Ignored}, {MAC: "02:00:00:00:00:03", Role: Internal}}, Ignored, "name", ""},
		{"InternalIP on external", link(1, "eth0", "192.168.1.1/24"), []Rule{{Name: "eth0", Role: External}}, External, "configured", "InternalIP 192.168.1.1"},
		{"pool on internal", link(2, "eth1", "192.168.7.1/24"), []Rule{{Name: "eth1", Role: Internal}}, Internal, "configured", "can't be announced"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nics, _ := Assign([]netdev.Link{tt.link}, tt.rules, hints)
			n := nics[0]
			if n.Role != tt.role || !strings.Contains(n.Reason, tt.reason) {
				t.Errorf("role %s because %q, want %s because of %q", n.Role, n.Reason, tt.role, tt.reason)
			}
			if (tt.warning == "") != (n.Warning == "") || !strings.Contains(n.Warning, tt.warning) {
				t.Errorf("warning %q, want %q", n.Warning, tt.warning)
			}
		})
	}
}

func TestAssignUnknownInterface(t *testing.T) {
	_, errs := Assign(nil, []Rule{{Name: "eth9", Role: External}}, Hints{})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "no interface with name eth9") {
		t.Errorf("errors = %v, want the unknown interface named", errs)
	}
}
