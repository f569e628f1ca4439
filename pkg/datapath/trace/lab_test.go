// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/netdev/nat"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const pinDir = "/sys/fs/bpf/patchbay"

// place is a namespace with one interface, and what it has seen.
type place struct {
	name     string
	ns       *netlab.Namespace
	mac      [6]byte
	index    int // of the node's interface to it
	nodeMAC  [6]byte
	seen     *netlab.Capture
	read     int    // frames of seen that are old
	received string // packets, before the last was sent
}

// lab is a node in the test's own namespace, with pods, and neighbours that are
// nothing but namespaces.
type lab struct {
	t      *testing.T
	self   *netlab.Namespace
	d      *datapath.Datapath
	places map[string]*place
	drops  map[string]uint64
}

func addr(text string) netip.Addr     { return netip.MustParseAddr(text) }
func ap(text string) netip.AddrPort   { return netip.MustParseAddrPort(text) }
func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// newLab raises it: int leads to nodes b (one L2) and c (by tunnel), ext to a
// client.
func newLab(t *testing.T) *lab {
	l := &lab{t: t, self: netlab.Open(t, "/proc/self/ns/net"), places: map[string]*place{}, drops: map[string]uint64{}}
	for key, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/default/dad_transmits": "0",
		"net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/default/rp_filter": "2",
	} {
		l.self.Sysctl(t, key, value)
	}
	internal, external := netlab.NewSwitch(t), netlab.NewSwitch(t)
	internal.Join(t, l.self, "int")
	external.Join(t, l.self, "ext")
	l.neighbour(internal, "b", "int", "10.0.0.2/24", "fd00:10::2/64")
	l.neighbour(internal, "c", "int", "10.0.0.3/24", "fd00:10::3/64")
	l.neighbour(external, "client", "ext", "192.0.2.100/24", "2001:db8::100/64")
	for name, addrs := range map[string][]string{"int": {"10.0.0.1/24", "fd00:10::1/64"}, "ext": {"192.0.2.1/24", "2001:db8::1/64"}} {
		for _, a := range addrs {
			l.self.Addr(t, name, a)
		}
	}
	l.self.Route(t, "default", addr("192.0.2.100"), "ext")
	l.self.Route(t, "10.244.2.0/24", addr("10.0.0.2"), "int")
	l.self.Exec(t, "ip", "link", "add", "pb-vxlan", "type", "vxlan", "external", "dstport", "4789")
	l.self.Exec(t, "ip", "link", "set", "pb-vxlan", "arp", "off", "mtu", "1450", "up")
	l.self.Sysctl(t, "net/ipv6/conf/pb-vxlan/disable_ipv6", "1") // its multicast would be counted
	l.open()
	l.pod("pod1", "10.244.1.10", "fd00:244:1::10")
	l.pod("pod2", "10.244.1.11", "fd00:244:1::11")
	return l
}

// neighbour is somebody on a segment.
func (l *lab) neighbour(s *netlab.Switch, name, device string, addrs ...string) {
	l.t.Helper()
	ns := netlab.New(l.t)
	ns.Sysctl(l.t, "net/ipv6/conf/default/dad_transmits", "0")
	s.Join(l.t, ns, "eth0")
	for _, a := range addrs {
		ns.Addr(l.t, "eth0", a)
	}
	l.places[name] = &place{
		name: name, ns: ns, mac: ns.MAC(l.t, "eth0"), index: l.self.Index(l.t, device), nodeMAC: l.self.MAC(l.t, device),
		seen: netlab.NewCapture(l.t, ns, "eth0"),
	}
}

// pod is a pod of the node; its stack answers nothing, so that only what the
// test sends is on the wire.
func (l *lab) pod(name string, addrs ...string) {
	l.t.Helper()
	ns := netlab.New(l.t)
	netlab.Wire(l.t, l.self, name, ns, "eth0")
	p := &place{name: name, ns: ns, mac: ns.MAC(l.t, "eth0"), index: l.self.Index(l.t, name), nodeMAC: l.self.MAC(l.t, name)}
	e := datapath.Endpoint{IfIndex: p.index, HostMAC: p.nodeMAC, MAC: p.mac}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, addr(a))
		l.self.Exec(l.t, "ip", "route", "add", a, "dev", name)
		l.self.Exec(l.t, "ip", "neigh", "add", a, "lladdr", net.HardwareAddr(p.mac[:]).String(), "dev", name, "nud", "permanent")
	}
	if err := l.d.AddEndpoint(e); err != nil {
		l.t.Fatal(err)
	}
	p.seen = netlab.NewCapture(l.t, ns, "eth0")
	l.places[name] = p
}

func (l *lab) open() {
	l.t.Helper()
	var err error
	if l.d, err = datapath.Open(datapath.Options{PinDir: pinDir}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.d.Close() })
	in, ex := l.self.Index(l.t, "int"), l.self.Index(l.t, "ext")
	nics := []datapath.NIC{
		{Index: in, Name: "int", Role: datapath.Internal, MAC: l.self.MAC(l.t, "int"), MTU: 1500, Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd00:10::1")}},
		{Index: ex, Name: "ext", Role: datapath.External, MAC: l.self.MAC(l.t, "ext"), MTU: 1500, Addrs: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}},
	}
	for _, n := range nics {
		if err := l.d.SetNIC(n); err != nil {
			l.t.Fatal(err)
		}
	}
	routes := []datapath.Route{
		{Prefix: prefix("10.244.0.0/16"), Kind: datapath.RoutePods},
		{Prefix: prefix("10.244.1.0/24"), Kind: datapath.RouteLocalPods},
		{Prefix: prefix("10.244.2.0/24"), Kind: datapath.RouteNative, NextHop: addr("10.0.0.2"), IfIndex: in, MTU: 1500},
		{Prefix: prefix("10.244.3.0/24"), Kind: datapath.RouteTunnel, NextHop: addr("10.0.0.3"), MTU: 1450},
		{Prefix: prefix("10.96.0.0/16"), Kind: datapath.RouteService},
		{Prefix: prefix("10.0.0.2/32"), Kind: datapath.RouteCluster, NextHop: addr("10.0.0.2"), IfIndex: in},
		{Prefix: prefix("fd00:244::/32"), Kind: datapath.RoutePods},
		{Prefix: prefix("fd00:244:1::/64"), Kind: datapath.RouteLocalPods},
		{Prefix: prefix("fd00:244:2::/64"), Kind: datapath.RouteNative, NextHop: addr("fd00:10::2"), IfIndex: in, MTU: 1500},
		{Prefix: prefix("fd00:96::/112"), Kind: datapath.RouteService},
		{Prefix: prefix("fd00:10::2/128"), Kind: datapath.RouteCluster, NextHop: addr("fd00:10::2"), IfIndex: in},
	}
	peers := []datapath.Peer{
		{IfIndex: in, MAC: l.places["b"].mac, Addr: addr("10.0.0.2")},
		{IfIndex: in, MAC: l.places["b"].mac, Addr: addr("fd00:10::2")},
		{IfIndex: in, MAC: l.places["c"].mac, Addr: addr("10.0.0.3")},
	}
	tunnel := datapath.Tunnel{IfIndex: l.self.Index(l.t, "pb-vxlan"), MTU: 1450, VNI: 20546, Port: 4789}
	masquerade := nat.Config{
		Pods: []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:244::/32")}, Masquerade: true, TunnelPort: 4789, NodePorts: [2]uint16{30000, 32767},
		Exclude: []netip.Prefix{prefix("10.96.0.0/16"), prefix("10.0.0.0/24")}, Links: []int{in, ex}, TunnelLinks: []int{in, ex},
	}
	for _, n := range nics {
		masquerade.NICs = append(masquerade.NICs, nat.NIC{Index: n.Index, Addrs: n.Addrs})
	}
	for _, err := range []error{l.d.SetRoutes(routes), l.d.SetPeers(peers), l.d.SetTunnel(tunnel), nat.Apply(masquerade)} {
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// send puts a frame on the wire of a place.
func (l *lab) send(from string, frame []byte) {
	l.t.Helper()
	p := l.places[from]
	p.received = l.received(p)
	err := p.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.ns.Index(l.t, "eth0"), Halen: 6})
	})
	if err != nil {
		l.t.Fatalf("send from %s: %v", from, err)
	}
}

// news are the frames that a place was sent since it was asked last, but for
// what keeps neighbours acquainted.
func (l *lab) news(name string) [][]byte {
	p := l.places[name]
	frames := p.seen.Frames()
	var out [][]byte
	for _, f := range frames[p.read:] {
		h := headers.Read(f.Data)
		if f.Outgoing || !h.Src.IsValid() || h.DstMAC[0]&1 != 0 || h.Proto == headers.ICMPv6 && h.Type >= 130 && h.Type <= 143 {
			continue
		}
		out = append(out, f.Data)
	}
	p.read = len(frames)
	return out
}

// dropped is what the programs have dropped since it was asked last.
func (l *lab) dropped() map[string]uint64 {
	l.t.Helper()
	list, err := l.d.Drops()
	if err != nil {
		l.t.Fatal(err)
	}
	now, since := map[string]uint64{}, map[string]uint64{}
	for _, d := range list {
		now[d.Reason] = d.Packets
		if d.Packets > l.drops[d.Reason] {
			since[d.Reason] = d.Packets - l.drops[d.Reason]
		}
	}
	l.drops = now
	return since
}

// check compares what a trace says with what has become of the same frame.
func (l *lab) check(from string, end trace.End) error {
	where, want := "", end.Frame
	dropped := map[string]uint64{}
	for name, p := range l.places {
		switch {
		case end.Kind == trace.EndPod && p.index == end.Link:
			where = name
		case end.Kind == trace.EndWire && p.index == end.Link && end.Hop.IsValid() && l.has(p, end.Hop),
			end.Kind == trace.EndWire && p.index == end.Link && !end.Hop.IsValid() && headers.Read(end.Frame).DstMAC == p.mac:
			where = name
		}
	}
	switch end.Kind {
	case trace.EndRefused:
		dropped[end.Reason]++
		where = from
	case trace.EndAnswered:
		where = from
	case trace.EndDropped:
		if end.Reason != "route" && end.Reason != "ttl" && end.Reason != "masquerade" {
			dropped[end.Reason]++
		}
	case trace.EndTunnel:
		where = "c"
	}
	if where != "" {
		err := netlab.Poll(5*time.Second, func() error { return l.arrived(where, end, want) })
		if err != nil {
			return fmt.Errorf("%w; dropped %v", err, l.dropped())
		}
	} else {
		l.settle(from)
	}
	if end.Kind == trace.EndNode { // nobody listens there: the node refuses it
		_ = netlab.Poll(time.Second, func() error {
			if len(l.news(from)) == 0 {
				return errors.New("no answer yet")
			}
			return nil
		})
	}
	if got := l.dropped(); !maps.Equal(got, dropped) {
		return fmt.Errorf("dropped %v, trace says %v", got, dropped)
	}
	var errs []error
	for name := range l.places {
		if frames := l.news(name); name != where && len(frames) > 0 && end.Kind != trace.EndNode && end.Reason != "ttl" && end.Reason != "route" {
			errs = append(errs, fmt.Errorf("%s was sent %s, and trace says %s %s", name, headers.Read(frames[0]), end.Kind, end.Reason))
		}
	}
	return errors.Join(errs...)
}

// settle waits until the node has taken what a place has sent.
func (l *lab) settle(from string) {
	l.t.Helper()
	p := l.places[from]
	netlab.WaitFor(l.t, 5*time.Second, "the frame of "+from, func() error {
		now := l.received(p)
		if now == p.received {
			return errors.New("nothing received")
		}
		return nil
	})
}

// received is how many packets have come in from a place.
func (l *lab) received(p *place) string {
	text, err := p.ns.TryExec("cat", "/proc/thread-self/net/dev")
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); f[0] == "eth0:" {
			return f[10] // transmitted
		}
	}
	return ""
}

// has tells whether a place has an address.
func (l *lab) has(p *place, a netip.Addr) bool {
	out, err := p.ns.TryExec("ip", "-o", "addr", "show", "dev", "eth0")
	return err == nil && bytes.Contains([]byte(out), []byte(" "+a.String()+"/"))
}

// arrived returns an error unless the frame has come where it was to come.
func (l *lab) arrived(where string, end trace.End, want []byte) error {
	p := l.places[where]
	for _, f := range p.seen.Frames()[p.read:] {
		if f.Outgoing {
			continue
		}
		got, wanted := f.Data, want
		if end.Kind == trace.EndTunnel {
			const outer = 14 + 20 + 8 + 8
			if h := headers.Read(got); h.Proto != headers.UDP || h.Dst.Port() != 4789 || len(got) < outer {
				continue
			}
			got = got[outer:]
		}
		if end.Kind == trace.EndTunnel || end.Hop.IsValid() {
			got, wanted = got[12:], wanted[12:] // MACs are the neighbour's
		}
		if bytes.Equal(got, wanted) {
			return nil
		}
	}
	text := ""
	for _, f := range p.seen.Frames()[p.read:] {
		if h := headers.Read(f.Data); !f.Outgoing && h.Src.IsValid() {
			text += fmt.Sprintf("\n\t%s: %x", h, f.Data)
		}
	}
	return fmt.Errorf("%s hasn't got %s: %x\n got%s", where, headers.Read(want), want, text)
}
