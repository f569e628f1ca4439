// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func newMap(t *testing.T, name string) *ebpf.Map {
	t.Helper()
	netlab.Require(t)
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(spec.Maps[name])
	if err != nil {
		t.Fatalf("make map %s: %v", name, err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func wantSame(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestReasons(t *testing.T) {
	reasons, err := Reasons()
	if err != nil {
		t.Fatal(err)
	}
	for number, reason := range reasons {
		// The enum's last is how many there are; it has no name.
		if (reason == "") != (number == int(objects.MapDropReasonDROP_MAX)) {
			t.Errorf("reason %d: name %q", number, reason)
		}
		if strings.ContainsAny(reason, "_ ") {
			t.Errorf("reason %d: want a label, got %q", number, reason)
		}
	}
	if got := reasons[objects.MapDropReasonDROP_POD_SOURCE]; got != "pod-source" {
		t.Errorf("want pod-source, got %s", got)
	}
}

// TestReasonsNeverRenumbered holds the numbers that were ever released.
func TestReasonsNeverRenumbered(t *testing.T) {
	for number, want := range map[objects.MapDropReason]string{
		1: "bug", 2: "malformed", 3: "pod-source", 4: "pod-mac", 9: "policy", 13: "no-backend", 22: "too-big", 26: "protocol",
	} {
		reasons, err := Reasons()
		if err != nil {
			t.Fatal(err)
		}
		if reasons[number] != want {
			t.Errorf("reason %d: want %s, got %s", number, want, reasons[number])
		}
	}
}

// TestStructSizes compares what Go marshals with what C says.
func TestStructSizes(t *testing.T) {
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"frontend_key": objects.MapFrontendKey{}, "frontend": objects.MapFrontend{}, "backend": objects.MapBackend{},
		"range_key": objects.MapRangeKey{}, "flow_key": objects.MapFlowKey{}, "flow": objects.MapFlow{},
		"endpoint": objects.MapEndpoint{}, "nic": objects.MapNic{}, "route_key": objects.MapRouteKey{},
		"route": objects.MapRoute{}, "peer_key": objects.MapPeerKey{}, "peer": objects.MapPeer{},
		"announced_key": objects.MapAnnouncedKey{}, "announced": objects.MapAnnounced{}, "config": objects.MapConfig{},
		"drop_count": objects.MapDropCount{},
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Errorf("struct %s: %v", name, err)
			continue
		}
		if got := binary.Size(v); got != int(c.Size) {
			t.Errorf("struct %s: want %d bytes, Go has %d", name, c.Size, got)
		}
	}
}

func TestDrops(t *testing.T) {
	m := newMap(t, "drops")
	d, err := NewDrops(m)
	if err != nil {
		t.Fatal(err)
	}
	perCPU := make([]objects.MapDropCount, ebpf.MustPossibleCPU())
	for i := range perCPU {
		perCPU[i] = objects.MapDropCount{Packets: 2, Bytes: 100}
	}
	if err := m.Update(uint32(objects.MapDropReasonDROP_POLICY), perCPU, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	got, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(len(perCPU))
	wantSame(t, "drops", []Drop{{Reason: "policy", Packets: 2 * n, Bytes: 100 * n}}, got)
}

func TestEndpoints(t *testing.T) {
	m := Endpoints{Map: newMap(t, "endpoints")}
	a := Endpoint{IfIndex: 7, MAC: [6]byte{2, 1}, HostMAC: [6]byte{2, 2}, Addrs: addrs("10.244.1.2", "fd00::2")}
	b := Endpoint{IfIndex: 8, MAC: [6]byte{2, 3}, HostMAC: [6]byte{2, 4}, Addrs: addrs("10.244.1.3")}
	set := func(e Endpoint) {
		t.Helper()
		if err := m.Set(e); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want ...Endpoint) {
		t.Helper()
		got, err := m.List()
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "endpoints", want, got)
	}
	remove := func(e Endpoint) {
		t.Helper()
		if err := m.Remove(e); err != nil {
			t.Fatal(err)
		}
	}
	set(a)
	set(b)
	want(a, b)

	// What the programs noted stays when the same pod is written again.
	noted := objects.MapEndpoint{Ifindex: 7, Flags: 1, Policy: 3}
	if err := m.Map.Update(objects.Addr(a.Addrs[0]), &noted, ebpf.UpdateExist); err != nil {
		t.Fatal(err)
	}
	set(a)
	var value objects.MapEndpoint
	if err := m.Map.Lookup(objects.Addr(a.Addrs[0]), &value); err != nil || value.Flags != 1 || value.Policy != 3 || value.Mac != a.MAC {
		t.Errorf("entry written again: want its flags and policy kept, got %+v, %v", value, err)
	}
	// A late removal of another pod's address doesn't hit its new owner.
	remove(Endpoint{IfIndex: 9, Addrs: a.Addrs})
	want(a, b)
	remove(Endpoint{IfIndex: 7})
	want(b)
	remove(Endpoint{Addrs: b.Addrs})
	remove(Endpoint{Addrs: b.Addrs})
	want()
}

func TestRoutes(t *testing.T) {
	m := Routes{Map: newMap(t, "routes")}
	routes := []Route{
		{Prefix: netip.MustParsePrefix("10.244.0.0/16"), Kind: RoutePods},
		{Prefix: netip.MustParsePrefix("10.244.2.0/24"), Kind: RouteNative, NextHop: netip.MustParseAddr("10.0.0.2"), IfIndex: 3, MTU: 1500},
		{Prefix: netip.MustParsePrefix("fd00:244::/64"), Kind: RouteTunnel, NextHop: netip.MustParseAddr("10.0.0.2"), MTU: 1450},
	}
	for _, n := range []int{3, 3, 1, 0} {
		if err := m.Set(routes[:n]); err != nil {
			t.Fatal(err)
		}
		got, err := m.List()
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "routes", routes[:n], got)
	}
	if err := m.Set([]Route{{Node: "b"}}); err == nil {
		t.Error("invalid prefix: want an error")
	}
}

func TestNICs(t *testing.T) {
	m := NICs{Map: newMap(t, "nics")}
	nic := NIC{Index: 2, Name: "eth0", Role: External, MAC: [6]byte{2, 1}, MTU: 1500, Addrs: addrs("fe80::1", "192.0.2.1", "2001:db8::1", "192.0.2.7")}
	if err := m.Set(nic); err != nil {
		t.Fatal(err)
	}
	got, err := m.List()
	if err != nil {
		t.Fatal(err)
	}
	nic.Name, nic.Addrs = "", addrs("192.0.2.1", "2001:db8::1")
	wantSame(t, "NICs", []NIC{nic}, got)
	for range 2 {
		if err := m.Remove(2); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPeers(t *testing.T) {
	m := Peers{Map: newMap(t, "peers")}
	near := Peer{IfIndex: 2, MAC: [6]byte{2, 1}, Addr: netip.MustParseAddr("10.0.0.2")}
	far := Peer{IfIndex: 2, Addr: netip.MustParseAddr("10.9.0.2")}
	if err := m.Set([]Peer{near, far}); err != nil {
		t.Fatal(err)
	}
	got, err := read[objects.MapPeerKey, objects.MapPeer](m.Map)
	if err != nil {
		t.Fatal(err)
	}
	nearAddr, farAddr := objects.Addr(near.Addr), objects.Addr(far.Addr)
	wantSame(t, "entries", map[objects.MapPeerKey]objects.MapPeer{
		{Addr: nearAddr, Ifindex: 2, Mac: near.MAC}: {Node: nearAddr}, // its tunnel packets
		{Ifindex: 2, Mac: near.MAC}:                 {Node: nearAddr}, // everything else of it
		{Addr: nearAddr}:                            {Node: nearAddr}, // what comes out of the tunnel
		{Addr: farAddr, Ifindex: 2}:                 {Node: farAddr},
		{Addr: farAddr}:                             {Node: farAddr},
	}, got)
}

func TestAnnouncements(t *testing.T) {
	m := Announcements{Map: newMap(t, "announced")}
	forever := Announcement{Addr: netip.MustParseAddr("192.0.2.50"), IfIndex: 2}
	short := Announcement{Addr: netip.MustParseAddr("192.0.2.51"), IfIndex: 2, Expires: 30 * time.Second}
	if err := m.Set([]Announcement{forever, short}); err != nil {
		t.Fatal(err)
	}
	got, err := m.List()
	if err != nil || len(got) != 2 || got[0] != forever {
		t.Fatalf("want two, the first %+v, got %+v, %v", forever, got, err)
	}
	if left := got[1].Expires; left <= 0 || left > short.Expires {
		t.Errorf("expiry: want up to 30 s left, got %v", left)
	}
	if err := m.Set(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := m.List(); err != nil || len(got) != 0 {
		t.Errorf("want none, got %v, %v", got, err)
	}
	if err := m.Renew(forever); !errors.Is(err, ErrNotAnnounced) {
		t.Errorf("renew what isn't there: want ErrNotAnnounced, got %v", err)
	}
	if err := errors.Join(m.Announce(short), m.Renew(forever)); !errors.Is(err, ErrNotAnnounced) {
		t.Errorf("renew another: want ErrNotAnnounced, got %v", err)
	}
	short.Expires = 0
	if err := errors.Join(m.Renew(short), m.Withdraw(forever)); err != nil {
		t.Error(err)
	}
	if got, err := m.List(); err != nil || len(got) != 1 || got[0] != short {
		t.Errorf("want %+v renewed, got %+v, %v", short, got, err)
	}
	if err := m.Withdraw(short); err != nil {
		t.Error(err)
	}
	if got, err := m.List(); err != nil || len(got) != 0 {
		t.Errorf("want none, got %v, %v", got, err)
	}
}

func TestTunnel(t *testing.T) {
	m := Config{Map: newMap(t, "config")}
	want := Tunnel{IfIndex: 5, MTU: 1450, VNI: 20546, Port: 4789}
	if err := m.SetTunnel(want); err != nil {
		t.Fatal(err)
	}
	got, err := m.Tunnel()
	if err != nil || got != want {
		t.Errorf("want %+v, got %+v, %v", want, got, err)
	}
}

func TestExpire(t *testing.T) {
	timeouts, err := ReadTimeouts(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := Flows{Map: newMap(t, "flows"), Timeouts: timeouts}
	now := uint32(monotonic() >> tickShift)
	closing, fin := uint8(objects.MapFlowFlagsFLOW_CLOSING), uint8(objects.MapFlowFlagsFLOW_FIN)
	cases := []struct {
		name  string
		proto uint8
		flags uint8
		idle  uint32
		want  bool // is there after Expire
	}{
		{"tcp", 6, 0, timeouts.TCP, true},
		{"tcp over", 6, 0, timeouts.TCP + 1, false},
		{"fin", 6, fin, timeouts.TCPFin, true},
		{"fin over", 6, fin, timeouts.TCPFin + 1, false},
		{"closing", 6, closing, timeouts.TCPClosing, true},
		{"closing over", 6, closing | fin, timeouts.TCPClosing + 1, false},
		{"udp", 17, 0, timeouts.UDP, true},
		{"udp over", 17, 0, timeouts.UDP + 1, false},
		{"sctp", 132, 0, timeouts.SCTP, true},
		{"sctp after an abort", 132, closing, timeouts.TCPClosing + 1, false},
		{"icmp over", 1, 0, timeouts.Other + 1, false},
		{"seen since", 6, 0, ^uint32(0), true}, // a tick after now
		{"seen since, closing", 6, closing, ^uint32(0), true},
	}
	key := func(i int) objects.MapFlowKey {
		return objects.MapFlowKey{Sport: uint16(i + 1), Dport: 80, Proto: cases[i].proto}
	}
	for i, c := range cases {
		flow := objects.MapFlow{Sport: uint16(i + 1), Dport: 8080, Flags: c.flags, Seen: now - c.idle}
		if err := m.Map.Update(key(i), &flow, ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
		// The other direction: its key is the translated tuple, swapped.
		reply := objects.MapFlowKey{Sport: 8080, Dport: uint16(i + 1), Proto: c.proto}
		if err := m.Map.Update(reply, &objects.MapFlow{Sport: 80, Dport: uint16(i + 1), Flags: c.flags, Seen: now}, ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
	}
	deleted, _, err := m.Expire()
	if err != nil {
		t.Fatal(err)
	}
	if deleted != 12 {
		t.Errorf("want 6 flows, 12 entries deleted, got %d", deleted)
	}
	for i, c := range cases {
		var flow objects.MapFlow
		if err := m.Map.Lookup(key(i), &flow); (err == nil) != c.want {
			t.Errorf("%s: want there %v, got %v", c.name, c.want, err)
		}
	}
}

// TestExpireLeavesYoungerFlow holds that a flow's end doesn't take an entry that
// has its reply's tuple but is another flow's: a client's port used again.
func TestExpireLeavesYoungerFlow(t *testing.T) {
	timeouts, err := ReadTimeouts(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := Flows{Map: newMap(t, "flows"), Timeouts: timeouts}
	now := uint32(monotonic() >> tickShift)
	old := objects.MapFlowKey{Sport: 4000, Dport: 80, Proto: 6}
	young := objects.MapFlowKey{Sport: 4000, Dport: 81, Proto: 6}
	reply := objects.MapFlowKey{Sport: 8080, Dport: 4000, Proto: 6}
	for key, flow := range map[objects.MapFlowKey]objects.MapFlow{
		old:   {Sport: 4000, Dport: 8080, Seen: now - timeouts.TCP - 1},
		young: {Sport: 4000, Dport: 8080, Seen: now},
		reply: {Sport: 81, Dport: 4000, Seen: now},
	} {
		if err := m.Map.Update(key, &flow, ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
	}
	if deleted, left, err := m.Expire(); err != nil || deleted != 1 || left != 2 {
		t.Errorf("want one entry deleted, got %d, %v", deleted, err)
	}
	for _, key := range []objects.MapFlowKey{young, reply} {
		var flow objects.MapFlow
		if err := m.Map.Lookup(key, &flow); err != nil {
			t.Errorf("younger flow's entry %d→%d: %v", key.Sport, key.Dport, err)
		}
	}
}

func TestFlowsWithoutRoom(t *testing.T) {
	m := Flows{Moved: newMap(t, "moved")}
	if err := m.Moved.Put(uint32(objects.MapMoveMOVE_FULL), uint32(7)); err != nil {
		t.Fatal(err)
	}
	if got, err := m.WithoutRoom(); got != 7 || err != nil {
		t.Errorf("%d packets, %v, want 7", got, err)
	}
}
