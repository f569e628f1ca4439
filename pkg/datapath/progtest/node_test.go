// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

// Verdicts of a tc program.
const (
	pass     = ^uint32(0) // TC_ACT_UNSPEC
	drop     = uint32(2)  // TC_ACT_SHOT
	redirect = uint32(7)  // TC_ACT_REDIRECT
)

// Test runs put every packet on the loopback device of the caller's namespace.
const (
	here   = 1
	tunnel = 90
	nicB   = 20
)

// The cast. Node a is the one under test; b is its peer.
var (
	podA   = netip.MustParseAddr("10.244.0.5")
	podA2  = netip.MustParseAddr("10.244.0.6")
	podB   = netip.MustParseAddr("10.244.1.7")
	podC   = netip.MustParseAddr("10.244.2.8")
	podA6  = netip.MustParseAddr("fd00:244::5")
	podC6  = netip.MustParseAddr("fd00:244:2::8")
	podB6  = netip.MustParseAddr("fd00:244:1::7")
	nodeA  = netip.MustParseAddr("192.168.1.1")
	nodeB  = netip.MustParseAddr("192.168.1.2")
	nodeC  = netip.MustParseAddr("10.9.0.3")
	client = netip.MustParseAddr("203.0.113.9")
	vip    = netip.MustParseAddr("192.168.1.200")
	vip6   = netip.MustParseAddr("fd00:1::200")
	cli6   = netip.MustParseAddr("2001:db8::9")
	clusIP = netip.MustParseAddr("10.96.0.10")

	macA      = packet.MAC{2, 0, 0, 0, 0, 0xa}
	macA2     = packet.MAC{2, 0, 0, 0, 0, 0xb}
	hostMAC   = packet.MAC{2, 0, 0, 0, 1, 0xa}
	nicMAC    = packet.MAC{2, 0, 0, 0, 2, 1}
	peerMAC   = packet.MAC{2, 0, 0, 0, 2, 2}
	routerMAC = packet.MAC{2, 0, 0, 0, 2, 9}
)

// node is one node's programs on maps of its own.
type node struct {
	t        testing.TB
	whole    testing.TB // the test that t is part of
	ns       *netlab.Namespace
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	backends uint32
	settings map[string]any // of programs that aren't loaded yet
}

// newNode makes the maps and gives the node its pods, routes and peers.
func newNode(t testing.TB) *node {
	t.Helper()
	netlab.Require(t)
	n := &node{t: t, whole: t, ns: netlab.New(t), maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	n.beNIC()
	n.load(objects.LoadMap)
	n.put("config", uint32(0), objects.MapConfig{TunnelIfindex: tunnel, TunnelMtu: 1450, TunnelVni: 20546, TunnelPort: objects.Port(4789)})
	n.put("nics", uint32(here), objects.MapNic{V4: objects.Addr(nodeA), Mtu: 1500, Mac: nicMAC, Role: 1})
	n.endpoint(podA, here, macA)
	n.endpoint(podA6, here, macA)
	n.endpoint(podA2, 11, macA2)
	for prefix, r := range map[string]objects.MapRoute{
		"10.244.0.0/16":   {Kind: kind(objects.MapRouteKindROUTE_PODS)},
		"10.244.0.0/24":   {Kind: kind(objects.MapRouteKindROUTE_LOCAL_PODS)},
		"10.244.1.0/24":   {Kind: kind(objects.MapRouteKindROUTE_NATIVE), Hop: objects.Addr(nodeB), Ifindex: nicB},
		"10.244.2.0/24":   {Kind: kind(objects.MapRouteKindROUTE_TUNNEL), Hop: objects.Addr(nodeC)},
		"fd00:244::/64":   {Kind: kind(objects.MapRouteKindROUTE_LOCAL_PODS)},
		"fd00:244:1::/64": {Kind: kind(objects.MapRouteKindROUTE_NATIVE), Hop: objects.Addr(nodeB), Ifindex: nicB},
		"fd00:244:2::/64": {Kind: kind(objects.MapRouteKindROUTE_TUNNEL), Hop: objects.Addr(nodeC)},
		"10.96.0.0/16":    {Kind: kind(objects.MapRouteKindROUTE_SERVICE)},
		"192.168.1.1/32":  {Kind: kind(objects.MapRouteKindROUTE_SELF)},
		"192.168.1.2/32":  {Kind: kind(objects.MapRouteKindROUTE_CLUSTER), Ifindex: nicB},
		"10.9.0.3/32":     {Kind: kind(objects.MapRouteKindROUTE_CLUSTER), Hop: objects.Addr(nodeC), Ifindex: tunnel},
	} {
		p := netip.MustParsePrefix(prefix)
		n.put("routes", objects.MapRouteKey{Prefixlen: objects.Bits(p), Addr: p.Addr().As16()}, r)
	}
	n.put("peers", objects.MapPeerKey{Ifindex: here, Mac: peerMAC}, objects.MapPeer{Node: objects.Addr(nodeB)})
	n.put("peers", objects.MapPeerKey{Addr: objects.Addr(nodeB), Ifindex: here, Mac: peerMAC}, objects.MapPeer{Node: objects.Addr(nodeB)})
	return n
}

// beNIC gives the loopback device, which test runs use, the NIC's MAC: frames
// for another are not the node's.
func (n *node) beNIC() {
	n.t.Helper()
	handle := n.ns.Netlink(n.t)
	lo, err := handle.LinkByIndex(here)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := handle.LinkSetHardwareAddr(lo, nicMAC[:]); err != nil {
		n.t.Fatal(err)
	}
}

func kind(k objects.MapRouteKind) uint8 { return uint8(k) }

// load loads an object on the maps that the node has, and keeps its own. Given
// programs' names, it loads those alone.
func (n *node) load(spec func() (*ebpf.CollectionSpec, error), only ...string) {
	n.t.Helper()
	s, err := spec()
	if err != nil {
		n.t.Fatal(err)
	}
	maps.DeleteFunc(s.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return len(only) > 0 && !slices.Contains(only, name)
	})
	s.Maps["slots"].MaxEntries = 4096
	for name, value := range n.settings {
		if err := s.Variables[name].Set(value); err != nil {
			n.t.Fatal(err)
		}
	}
	shared := map[string]*ebpf.Map{}
	for name := range s.Maps {
		if m, ok := n.maps[name]; ok {
			shared[name] = m
			s.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	c, err := ebpf.NewCollectionWithOptions(s, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			n.t.Fatalf("%+v", verifier)
		}
		n.t.Fatal(err)
	}
	n.whole.Cleanup(c.Close)
	for name, m := range c.Maps {
		if _, ok := n.maps[name]; !ok && !strings.HasPrefix(name, ".") {
			n.maps[name] = m
		}
	}
	maps.Copy(n.programs, c.Programs)
}

// program is a program, loaded at its first use: on an emulated machine the
// verifier takes seconds for each.
func (n *node) program(name string) *ebpf.Program {
	n.t.Helper()
	object := map[string]func() (*ebpf.CollectionSpec, error){
		"tc_pod_in": objects.LoadTcPod, "tc_pod_out": objects.LoadTcPod,
		"tc_uplink_in": objects.LoadTcUplink, "tc_uplink_out": objects.LoadTcUplink,
		"tc_tunnel_in": objects.LoadTcTunnel, "tc_tunnel_out": objects.LoadTcTunnel,
	}[name]
	if n.programs[name] == nil && object != nil {
		n.load(object, name)
	}
	if n.programs[name] == nil {
		n.t.Fatalf("no program %s", name)
	}
	return n.programs[name]
}

func (n *node) put(table string, key, value any) {
	n.t.Helper()
	if err := n.maps[table].Put(key, value); err != nil {
		n.t.Fatalf("put %s: %v", table, err)
	}
}

func (n *node) endpoint(a netip.Addr, ifindex uint32, mac packet.MAC) {
	n.t.Helper()
	n.put("endpoints", objects.Addr(a), objects.MapEndpoint{Ifindex: ifindex, Mac: mac, HostMac: hostMAC})
}

// service is a frontend with its backends; each has a Service of its own.
type service struct {
	addr     netip.Addr
	port     uint16
	proto    uint8
	scopes   []objects.MapScope
	fe       objects.MapFrontend
	backends []netip.AddrPort
}

func (n *node) service(index uint32, s service) {
	n.t.Helper()
	base := index * 64
	for i, b := range s.backends {
		n.backends++
		n.put("backends", n.backends, objects.MapBackend{
			Addr: objects.Addr(b.Addr()), Port: objects.Port(b.Port()), Proto: s.proto, Service: index,
		})
		n.put("slots", base+uint32(i), n.backends)
	}
	n.put("services", index, uint64(base)|uint64(len(s.backends))<<32)
	s.fe.Service = index
	for _, scope := range s.scopes {
		n.put("frontends", objects.MapFrontendKey{
			Addr: objects.Addr(s.addr), Port: objects.Port(s.port), Proto: s.proto, Scope: uint8(scope),
		}, s.fe)
		if s.fe.Flags&uint16(objects.MapFrontendFlagsFE_NODEPORT) == 0 {
			n.put("frontends", objects.MapFrontendKey{Addr: objects.Addr(s.addr), Scope: uint8(scope)},
				objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_ADDRESS)})
		}
	}
}

// skb is the context of a test run: the fields of struct __sk_buff up to what
// the kernel lets tests set.
type skb struct {
	Len, PktType, Mark uint32
	Queue              [6]uint32
	IngressIfindex     uint32
	Rest               [38]uint32
}

// result is what one run did.
type result struct {
	verdict uint32
	frame   []byte
	mark    uint32
	dropped map[objects.MapDropReason]uint64
}

// run sends a frame through a program.
func (n *node) run(program string, frame []byte) result {
	n.t.Helper()
	return n.runWith(program, frame, skb{})
}

// runWith runs it on a frame with more context than its bytes.
func (n *node) runWith(program string, frame []byte, in skb) result {
	n.t.Helper()
	before := n.drops()
	out := make([]byte, len(frame)+256)
	var ctx skb
	opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: in, ContextOut: &ctx}
	var verdict uint32
	loaded := n.program(program)
	err := n.ns.Do(func() (err error) {
		verdict, err = loaded.Run(&opts)
		return err
	})
	if err != nil {
		n.t.Fatalf("run %s: %v", program, err)
	}
	dropped := n.drops()
	for reason, count := range before {
		if dropped[reason] -= count; dropped[reason] == 0 {
			delete(dropped, reason)
		}
	}
	return result{verdict: verdict, frame: opts.DataOut, mark: ctx.Mark, dropped: dropped}
}

func (n *node) drops() map[objects.MapDropReason]uint64 {
	n.t.Helper()
	all := map[objects.MapDropReason]uint64{}
	var reason uint32
	var perCPU []objects.MapDropCount
	it := n.maps["drops"].Iterate()
	for it.Next(&reason, &perCPU) {
		for _, c := range perCPU {
			if c.Packets > 0 {
				all[objects.MapDropReason(reason)] += c.Packets
			}
		}
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// count is how many entries a table has.
func (n *node) count(table string) int {
	n.t.Helper()
	var key, value []byte
	entries := 0
	it := n.maps[table].Iterate()
	for it.Next(&key, &value) {
		entries++
	}
	return entries
}

// want checks verdict and bytes, and that no drop was counted but the reason.
func (n *node) want(r result, verdict uint32, frame []byte, reasons ...objects.MapDropReason) {
	n.t.Helper()
	if r.verdict != verdict {
		n.t.Errorf("verdict %s, want %s (dropped: %v)", verdictName(r.verdict), verdictName(verdict), r.dropped)
	}
	if frame != nil {
		if d := packet.Diff(frame, r.frame); d != "" {
			n.t.Errorf("frame (-want +got):\n%s", d)
		}
	}
	want := map[objects.MapDropReason]uint64{}
	for _, reason := range reasons {
		want[reason]++
	}
	if !maps.Equal(want, r.dropped) {
		n.t.Errorf("dropped %v, want %v", r.dropped, want)
	}
}

// wantDropped is want with one reason, or none.
func (n *node) wantDropped(r result, verdict uint32, frame []byte, reason objects.MapDropReason) {
	n.t.Helper()
	if reason == objects.MapDropReasonDROP_NONE {
		n.want(r, verdict, frame)
		return
	}
	n.want(r, verdict, frame, reason)
}

// in is the node for a subtest.
func (n *node) in(t testing.TB) *node {
	sub := *n
	sub.t = t
	return &sub
}

func verdictName(v uint32) string {
	switch v {
	case pass:
		return "pass"
	case drop:
		return "drop"
	case redirect:
		return "redirect"
	}
	return fmt.Sprint(v)
}

func TestContextSize(t *testing.T) {
	if size := unsafe.Sizeof(skb{}); size != 192 {
		t.Errorf("skb has %d bytes, want struct __sk_buff's 192", size)
	}
}
