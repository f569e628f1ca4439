// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"fmt"
	"log/slog"
	stdmaps "maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/load"
	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/test/oracle"
	"github.com/patchbay-net/patchbay/test/packet"
)

// node is node a: the programs on real maps, in a namespace of its own, with
// devices that packets can seem to come in by.
type node struct {
	t        testing.TB
	set      *load.Set
	services *services.Services
	drops    *maps.Drops
	counted  map[string]uint64
	now      time.Time // the clock of services

	internal, external device
	pods               []device // of pod 0 …
	sockets            *sockets
}

// device is an interface of the node with the MACs of its two ends.
type device struct {
	index      int
	mac, other packet.MAC // the node's, and who is at the other end
}

// tunnel is an index that no device has: nothing runs there.
const tunnel = 4000

var nodeBMAC = packet.MAC{2, 0, 0, 0, 2, 2} // on the internal network

// newNode makes it; the test is isolated.
func newNode(t testing.TB) *node { return newSmallNode(t, nil) }

// newSmallNode makes it with other sizes of maps.
func newSmallNode(t testing.TB, small map[string]uint32) *node {
	t.Helper()
	sizes := map[string]uint32{"flows": 1 << 12, "flows_new": 1 << 12, "affinities": 1 << 12, "slots": 1 << 18,
		"services": 1 << 12, "backends": 1 << 12}
	stdmaps.Copy(sizes, small)
	set, err := load.Open(load.Options{
		PinDir: "/sys/fs/bpf/patchbay", Log: slog.New(slog.DiscardHandler),
		Constants: map[string]any{"reject_rate": uint32(1 << 31)},
		Sizes:     sizes,
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { set.Close() })
	n := &node{t: t, set: set, counted: map[string]uint64{}, now: time.Unix(1, 0)}
	n.services, err = services.Open(n.serviceMaps(), func() time.Time { return n.now })
	n.must(err)
	t.Cleanup(func() { n.services.Close() })
	n.drops, err = maps.NewDrops(set.Maps["drops"])
	n.must(err)
	n.internal = n.device("int", packet.MAC{2, 0, 0, 0, 1, 1}, packet.MAC{2, 0, 0, 0, 1, 9})
	n.external = n.device("ext", packet.MAC{2, 0, 0, 0, 3, 1}, packet.MAC{2, 0, 0, 0, 3, 9})
	for i := range oracle.Pods {
		n.pods = append(n.pods, n.device(fmt.Sprintf("pod%d", i), packet.MAC{2, 0, 0, 1, 0, byte(i)}, packet.MAC{2, 0, 0, 2, 0, byte(i)}))
	}
	n.surround()
	n.routeOut()
	n.sockets = newSockets(t, set.Programs)
	return n
}

func (n *node) serviceMaps() services.Maps {
	m := n.set.Maps
	return services.Maps{
		Frontends: m["frontends"], Services: m["services"], Slots: m["slots"], Backends: m["backends"],
		SourceRanges: m["source_ranges"], Flows: m["flows"], FlowsNew: m["flows_new"],
	}
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) device(name string, mac, other packet.MAC) device {
	n.t.Helper()
	if out, err := exec.Command("ip", "link", "add", name, "address", net.HardwareAddr(mac[:]).String(), "type", "veth", "peer", "name", name+"-far").CombinedOutput(); err != nil {
		n.t.Fatalf("add device: %v: %s", err, out)
	}
	link, err := net.InterfaceByName(name)
	n.must(err)
	return device{link.Index, mac, other}
}

// surround tells the node of its devices, pods, and of the other nodes.
func (n *node) surround() {
	m := n.set.Maps
	n.must(maps.Config{Map: m["config"]}.SetTunnel(maps.Tunnel{IfIndex: tunnel, MTU: 1450, VNI: 20546, Port: 4789}))
	var routes []maps.Route
	var peers []maps.Peer
	internal, external := maps.NIC{Role: maps.Internal}, maps.NIC{Role: maps.External}
	for _, f := range oracle.Families() {
		pods := func(node, bits int) netip.Prefix {
			return netip.PrefixFrom(oracle.PodIP(f, node, 0), bits)
		}
		bits, all, own := 32, 16, 24
		if f == 6 {
			bits, all, own = 128, 32, 48
		}
		single := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, bits) }
		b, c := oracle.NodeIP(f, 1), oracle.NodeIP(f, 2)
		routes = append(routes,
			maps.Route{Prefix: pods(0, all).Masked(), Kind: maps.RoutePods},
			maps.Route{Prefix: pods(0, own).Masked(), Kind: maps.RouteLocalPods},
			maps.Route{Prefix: pods(1, own).Masked(), Kind: maps.RouteNative, NextHop: b, IfIndex: n.internal.index},
			maps.Route{Prefix: pods(2, own).Masked(), Kind: maps.RouteTunnel, NextHop: c},
			maps.Route{Prefix: single(oracle.NodeIP(f, 0)), Kind: maps.RouteSelf},
			maps.Route{Prefix: single(oracle.ExternalNodeIP(f, 0)), Kind: maps.RouteSelf},
			maps.Route{Prefix: single(b), Kind: maps.RouteCluster, NextHop: b, IfIndex: n.internal.index},
			maps.Route{Prefix: single(c), Kind: maps.RouteCluster, NextHop: c, IfIndex: tunnel},
		)
		peers = append(peers, maps.Peer{IfIndex: n.internal.index, MAC: nodeBMAC, Addr: b})
		internal.Addrs = append(internal.Addrs, oracle.NodeIP(f, 0))
		external.Addrs = append(external.Addrs, oracle.ExternalNodeIP(f, 0))
	}
	for _, r := range oracle.NewRandom(0).State().ServiceRanges {
		routes = append(routes, maps.Route{Prefix: r, Kind: maps.RouteService})
	}
	n.must(maps.Routes{Map: m["routes"]}.Set(routes))
	n.must(maps.Peers{Map: m["peers"]}.Set(peers))
	internal.Index, internal.MAC, internal.MTU = n.internal.index, n.internal.mac, 1500
	external.Index, external.MAC, external.MTU = n.external.index, n.external.mac, 1500
	n.must(maps.NICs{Map: m["nics"]}.Set(internal))
	n.must(maps.NICs{Map: m["nics"]}.Set(external))
	for i, d := range n.pods {
		e := maps.Endpoint{IfIndex: d.index, HostMAC: d.mac, MAC: d.other}
		for _, f := range oracle.Families() {
			e.Addrs = append(e.Addrs, oracle.PodIP(f, 0, 5+i))
		}
		n.must(maps.Endpoints{Map: m["endpoints"]}.Set(e))
	}
}

// routeOut gives the node's stack a way out: by the external NIC, whatever it
// takes for its own otherwise.
func (n *node) routeOut() {
	for _, d := range []string{"int", "int-far", "ext", "ext-far"} {
		n.ip("link", "set", d, "up")
	}
	for f, gateway := range map[string]string{"-4": "198.51.100.254", "-6": "fe80::fe"} {
		n.ip(f, "route", "add", "default", "via", gateway, "dev", "ext", "onlink", "table", "100")
		n.ip(f, "rule", "add", "pref", "2", "lookup", "local")
		n.ip(f, "rule", "del", "pref", "0")
		for _, d := range []string{"int", "ext"} {
			n.ip(f, "rule", "add", "pref", "1", "iif", d, "lookup", "100")
		}
	}
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		n.must(os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0o644))
	}
}

func (n *node) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// pod returns the device of a pod of this node.
func (n *node) pod(addr netip.Addr) (device, bool) {
	for i, d := range n.pods {
		for _, f := range oracle.Families() {
			if addr == oracle.PodIP(f, 0, 5+i) {
				return d, true
			}
		}
	}
	return device{}, false
}

// forget deletes what the programs have noted of flows and clients.
func (n *node) forget() {
	for _, name := range []string{"flows", "flows_new", "affinities"} {
		m := n.set.Maps[name]
		var key, value []byte
		var keys [][]byte
		for it := m.Iterate(); it.Next(&key, &value); {
			keys = append(keys, append([]byte(nil), key...))
		}
		for _, key := range keys {
			_ = m.Delete(key) // an LRU may have been quicker
		}
	}
}

// skb is the context of a test run: the fields of struct __sk_buff that matter.
type skb struct {
	Len, PktType, Mark uint32
	_                  [7]uint32
	IfIndex            uint32
	_                  [37]uint32
}

// result is what one run did.
type result struct {
	verdict uint32
	frame   []byte
	mark    uint32
	dropped map[string]uint64 // by reason
}

// Verdicts of a tc program.
const (
	pass     = ^uint32(0) // TC_ACT_UNSPEC
	drop     = uint32(2)  // TC_ACT_SHOT
	redirect = uint32(7)  // TC_ACT_REDIRECT
)

// run sends a frame through a program, as if in or out by a device.
func (n *node) run(program string, index int, frame []byte) result {
	n.t.Helper()
	in, ctx := skb{IfIndex: uint32(index)}, skb{}
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: in, ContextOut: &ctx}
	verdict, err := n.set.Programs[program].Run(&opts)
	if err != nil {
		n.t.Fatalf("run %s: %v", program, err)
	}
	return result{verdict, opts.DataOut, ctx.Mark, n.dropped()}
}

// dropped returns what was dropped since it was asked last.
func (n *node) dropped() map[string]uint64 {
	n.t.Helper()
	list, err := n.drops.List()
	n.must(err)
	since := map[string]uint64{}
	for _, d := range list {
		if more := d.Packets - n.counted[d.Reason]; more > 0 {
			since[d.Reason] = more
			n.counted[d.Reason] = d.Packets
		}
	}
	return since
}
