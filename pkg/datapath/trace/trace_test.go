// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	datapathmaps "github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// entries are the Services: an address for each kind of thing.
func entries() []service.Entry {
	backends := func(list ...string) (out []service.Backend) {
		for _, b := range list {
			out = append(out, service.Backend{Addr: ap(b)})
		}
		return out
	}
	entry := func(frontend string, scope service.Scope, kind service.Kind, to ...string) service.Entry {
		a := ap(frontend)
		return service.Entry{
			Frontend: service.Frontend{Address: service.Address{IP: a.Addr(), Port: a.Port(), Protocol: service.TCP}, Scope: scope},
			Port:     service.PortName{Namespace: "default", Name: "s"}, Kind: kind, Backends: backends(to...), NodePortRoles: roles(kind),
		}
	}
	both := func(frontend string, kind service.Kind, to ...string) []service.Entry {
		return []service.Entry{entry(frontend, service.Cluster, kind, to...), entry(frontend, service.External, kind, to...)}
	}
	list := []service.Entry{
		entry("10.96.0.1:80", service.Cluster, service.ClusterIP, "10.244.1.11:8080"),
		entry("10.96.0.2:80", service.Cluster, service.ClusterIP, "10.244.2.10:8080"),
		entry("10.96.0.3:80", service.Cluster, service.ClusterIP, "10.244.3.10:8080"),
		entry("10.96.0.4:80", service.Cluster, service.ClusterIP, "10.244.1.10:8080"),
		entry("10.96.0.5:80", service.Cluster, service.ClusterIP),
		entry("10.96.0.6:80", service.Cluster, service.ClusterIP, "10.244.1.11:8080", "10.244.2.10:8080", "10.244.3.10:8080"),
		entry("[fd00:96::1]:80", service.Cluster, service.ClusterIP, "[fd00:244:1::11]:8080"),
		entry("[fd00:96::2]:80", service.Cluster, service.ClusterIP, "[fd00:244:2::10]:8080"),
	}
	list[5].Affinity = time.Hour
	balanced := entry("10.96.0.7:80", service.Cluster, service.ClusterIP, "10.244.1.11:8080", "10.244.2.10:8080", "10.244.3.10:8080")
	balanced.SocketLB, balanced.Affinity = true, time.Hour
	list = append(list, balanced)
	list = append(list, both("192.0.2.50:80", service.LoadBalancer, "10.244.1.11:8080")...)
	list = append(list, both("192.0.2.51:80", service.LoadBalancer, "10.244.2.10:8080")...)
	list = append(list, both("192.0.2.52:80", service.LoadBalancer, "10.244.3.10:8080")...)
	list = append(list, both("192.0.2.53:80", service.LoadBalancer, "10.244.1.11:8080")...)
	list = append(list, both("192.0.2.54:80", service.LoadBalancer, "10.244.1.10:8080")...)
	list = append(list, both("192.0.2.55:80", service.LoadBalancer)...)
	list = append(list, both("192.0.2.56:80", service.LoadBalancer, "203.0.113.7:80")...)
	list = append(list, both("192.0.2.57:80", service.LoadBalancer, "10.0.0.1:8080")...)
	list = append(list, both("192.0.2.58:80", service.LoadBalancer, "10.0.0.2:8080")...)
	list = append(list, both("10.0.0.1:30080", service.NodePort, "10.244.1.11:8080")...)
	list = append(list, both("192.0.2.1:30080", service.NodePort, "10.244.1.11:8080")...)
	list = append(list, both("[2001:db8::50]:80", service.LoadBalancer, "[fd00:244:1::11]:8080")...)
	for i, e := range list {
		switch e.Frontend.IP.String() {
		case "192.0.2.53":
			list[i].SourceRanges = []netip.Prefix{prefix("198.51.100.0/24")}
		case "192.0.2.55":
			list[i].Empty = service.Drop
		}
	}
	return list
}

// from describes a packet of a place: by its own address and MACs.
func (l *lab) from(place, src, dst string) trace.Packet {
	l.t.Helper()
	p := l.places[place]
	if p == nil {
		l.t.Fatalf("no place %s", place)
	}
	packet := trace.Packet{From: trace.FromNIC, Link: p.index, Src: ap(src), Dst: ap(dst), Proto: headers.TCP, SrcMAC: p.mac, DstMAC: p.nodeMAC}
	if place == "pod1" || place == "pod2" {
		packet.From = trace.FromPod
	}
	return packet
}

// asked is one case: a packet, from a place.
type asked struct {
	name, from, src, dst string
	change               func(*trace.Packet)
	want                 trace.EndKind
	reason               string
}

func icmp(p *trace.Packet)  { p.Proto = headers.ICMP }
func udp(p *trace.Packet)   { p.Proto = headers.UDP }
func later(p *trace.Packet) { p.Fragment, p.Length = &trace.Fragment{ID: 77, Offset: 1480}, 64 }
func who(p *trace.Packet) {
	p.Frame = trace.Solicit(p.SrcMAC, p.Src.Addr(), p.Dst.Addr())
}
func first(p *trace.Packet) {
	p.Proto, p.Fragment, p.Length = headers.UDP, &trace.Fragment{ID: 78, More: true}, 64
}

func cases() []asked {
	return []asked{
		{name: "ClusterIP, local backend", from: "pod1", src: "10.244.1.10:1001", dst: "10.96.0.1:80", want: trace.EndPod},
		{name: "established", from: "pod1", src: "10.244.1.10:1001", dst: "10.96.0.1:80", want: trace.EndPod,
			change: func(p *trace.Packet) { p.Flags = headers.ACK }},
		{name: "the backend's answer", from: "pod2", src: "10.244.1.11:8080", dst: "10.244.1.10:1001", want: trace.EndPod,
			change: func(p *trace.Packet) { p.Flags = headers.SYN | headers.ACK }},
		{name: "to another backend's port, past the Service", from: "pod1", src: "10.244.1.10:1001", dst: "10.244.1.11:8080", want: trace.EndPod},
		{name: "ClusterIP, backend by route", from: "pod1", src: "10.244.1.10:1002", dst: "10.96.0.2:80", want: trace.EndWire},
		{name: "the remote backend's answer", from: "b", src: "10.244.2.10:8080", dst: "10.244.1.10:1002", want: trace.EndPod,
			change: func(p *trace.Packet) { p.Flags = headers.SYN | headers.ACK }},
		{name: "ICMP error about a flow", from: "b", src: "10.244.2.10:0", dst: "10.244.1.10:0", want: trace.EndPod, change: func(p *trace.Packet) {
			p.Proto, p.Quote = headers.ICMP, &trace.Packet{Src: ap("10.244.1.10:1002"), Dst: ap("10.244.2.10:8080"), Proto: headers.TCP}
		}},
		{name: "ClusterIP, backend by tunnel", from: "pod1", src: "10.244.1.10:1003", dst: "10.96.0.3:80", want: trace.EndTunnel},
		{name: "hairpin", from: "pod1", src: "10.244.1.10:1004", dst: "10.96.0.4:80", want: trace.EndPod},
		{name: "no endpoints", from: "pod1", src: "10.244.1.10:1005", dst: "10.96.0.5:80", want: trace.EndRefused, reason: "no-backend"},
		{name: "affinity", from: "pod1", src: "10.244.1.10:1006", dst: "10.96.0.6:80"},
		{name: "affinity again", from: "pod1", src: "10.244.1.10:1007", dst: "10.96.0.6:80"},
		{name: "affinity of another", from: "pod2", src: "10.244.1.11:1006", dst: "10.96.0.6:80"},
		{name: "unknown port", from: "pod1", src: "10.244.1.10:1008", dst: "10.96.0.1:81", want: trace.EndRefused, reason: "no-service"},
		{name: "unknown port, UDP", from: "pod1", src: "10.244.1.10:1008", dst: "10.96.0.1:81", change: udp, want: trace.EndRefused, reason: "no-service"},
		{name: "unknown ClusterIP", from: "pod1", src: "10.244.1.10:1009", dst: "10.96.9.9:80", want: trace.EndDropped, reason: "no-service"},
		{name: "ping of a ClusterIP", from: "pod1", src: "10.244.1.10:7", dst: "10.96.0.1:0", change: icmp, want: trace.EndAnswered},
		{name: "forged source", from: "pod1", src: "10.244.1.11:1010", dst: "10.96.0.1:80", want: trace.EndDropped, reason: "pod-source"},
		{name: "forged MAC", from: "pod1", src: "10.244.1.10:1011", dst: "10.96.0.1:80", want: trace.EndDropped, reason: "pod-mac",
			change: func(p *trace.Packet) { p.SrcMAC[5]++ }},
		{name: "pod to pod", from: "pod2", src: "10.244.1.11:1012", dst: "10.244.1.10:9", want: trace.EndPod},
		{name: "pod to no pod", from: "pod1", src: "10.244.1.10:1013", dst: "10.244.1.99:9", want: trace.EndRefused, reason: "no-pod"},
		{name: "pod to a pod by route", from: "pod1", src: "10.244.1.10:1014", dst: "10.244.2.77:9", want: trace.EndWire},
		{name: "pod to a pod by tunnel", from: "pod1", src: "10.244.1.10:1015", dst: "10.244.3.77:9", change: udp, want: trace.EndTunnel},
		{name: "pod to nobody's range", from: "pod1", src: "10.244.1.10:1016", dst: "10.244.9.77:9", want: trace.EndDropped, reason: "no-route"},
		{name: "pod to the outside", from: "pod1", src: "10.244.1.10:10017", dst: "203.0.113.5:9", want: trace.EndWire},
		{name: "the answer from outside", from: "client", src: "203.0.113.5:9", dst: "192.0.2.1:10017", want: trace.EndPod,
			change: func(p *trace.Packet) { p.Flags = headers.SYN | headers.ACK }},
		{name: "pod to the outside, again", from: "pod1", src: "10.244.1.10:10017", dst: "203.0.113.5:9", want: trace.EndWire,
			change: func(p *trace.Packet) { p.Flags = headers.ACK }},
		{name: "pod to the outside, in mid-flow", from: "pod1", src: "10.244.1.10:10018", dst: "203.0.113.5:9", want: trace.EndDropped, reason: "masquerade",
			change: func(p *trace.Packet) { p.Flags = headers.ACK }},
		{name: "pod to another node", from: "pod1", src: "10.244.1.10:1018", dst: "10.0.0.2:9", want: trace.EndWire},
		{name: "pod to its node", from: "pod1", src: "10.244.1.10:1019", dst: "10.0.0.1:9", change: udp, want: trace.EndNode},
		{name: "pod's tunnel packet", from: "pod1", src: "10.244.1.10:1020", dst: "10.0.0.2:4789", change: udp, want: trace.EndDropped, reason: "pod-tunnel"},
		{name: "v6 ClusterIP", from: "pod1", src: "[fd00:244:1::10]:1021", dst: "[fd00:96::1]:80", want: trace.EndPod},
		{name: "v6 ClusterIP by route", from: "pod1", src: "[fd00:244:1::10]:1022", dst: "[fd00:96::2]:80", want: trace.EndWire},
		{name: "v6 unknown port", from: "pod1", src: "[fd00:244:1::10]:1023", dst: "[fd00:96::1]:81", want: trace.EndRefused, reason: "no-service"},
		{name: "LoadBalancer", from: "client", src: "198.51.100.66:2001", dst: "192.0.2.50:80", want: trace.EndPod},
		{name: "the answer to a client outside", from: "pod2", src: "10.244.1.11:8080", dst: "198.51.100.66:2001", want: trace.EndWire,
			change: func(p *trace.Packet) { p.Flags = headers.SYN | headers.ACK }},
		{name: "LoadBalancer by route", from: "client", src: "192.0.2.100:2002", dst: "192.0.2.51:80", want: trace.EndWire},
		{name: "LoadBalancer by tunnel", from: "client", src: "192.0.2.100:2003", dst: "192.0.2.52:80", want: trace.EndTunnel},
		{name: "source range, outside", from: "client", src: "192.0.2.100:2004", dst: "192.0.2.53:80", want: trace.EndDropped, reason: "source-range"},
		{name: "source range, inside", from: "client", src: "198.51.100.7:2004", dst: "192.0.2.53:80", want: trace.EndPod},
		{name: "LoadBalancer, others have the backends", from: "client", src: "192.0.2.100:2005", dst: "192.0.2.55:80", want: trace.EndDropped, reason: "no-backend"},
		{name: "LoadBalancer, unknown port", from: "client", src: "192.0.2.100:2006", dst: "192.0.2.50:81", want: trace.EndRefused, reason: "no-service"},
		{name: "a backend outside the cluster", from: "client", src: "198.51.100.9:2020", dst: "192.0.2.56:80", want: trace.EndWire},
		{name: "a backend on the node", from: "client", src: "198.51.100.9:2021", dst: "192.0.2.57:80", want: trace.EndNode},
		{name: "a backend on another node", from: "client", src: "198.51.100.9:2022", dst: "192.0.2.58:80", want: trace.EndWire},
		{name: "a pod, a backend outside the cluster", from: "pod1", src: "10.244.1.10:2023", dst: "192.0.2.56:80", want: trace.EndWire},
		{name: "hairpin by LoadBalancer", from: "pod1", src: "10.244.1.10:2007", dst: "192.0.2.54:80", want: trace.EndPod},
		{name: "ping of a LoadBalancer address", from: "client", src: "192.0.2.100:8", dst: "192.0.2.50:0", change: icmp, want: trace.EndAnswered},
		{name: "v6 LoadBalancer", from: "client", src: "[2001:db8::100]:2008", dst: "[2001:db8::50]:80", want: trace.EndPod},
		{name: "NodePort, internal", from: "b", src: "10.0.0.77:2009", dst: "10.0.0.1:30080", want: trace.EndPod},
		{name: "NodePort, closed on the external NIC", from: "client", src: "192.0.2.100:2010", dst: "192.0.2.1:30080", want: trace.EndDropped, reason: "nodeport-nic"},
		{name: "a pod from outside", from: "client", src: "192.0.2.100:2011", dst: "10.244.1.11:8080", want: trace.EndDropped, reason: "pod-outside"},
		{name: "a ClusterIP from outside", from: "client", src: "192.0.2.100:2012", dst: "10.96.0.1:80", want: trace.EndDropped, reason: "service-outside"},
		{name: "a pod's address from outside", from: "client", src: "10.244.2.5:2013", dst: "192.0.2.50:80", want: trace.EndDropped, reason: "forged-source"},
		{name: "a remote pod to a pod", from: "b", src: "10.244.2.10:2014", dst: "10.244.1.11:8080", want: trace.EndPod},
		{name: "a remote pod for a third node", from: "b", src: "10.244.2.10:2015", dst: "10.244.3.11:8080", want: trace.EndDropped, reason: "third-node"},
		{name: "tunnel packet of nobody", from: "client", src: "192.0.2.100:2016", dst: "192.0.2.1:4789", change: udp, want: trace.EndDropped, reason: "forged-tunnel"},
		{name: "client to the node", from: "client", src: "192.0.2.100:2017", dst: "192.0.2.1:9", change: udp, want: trace.EndNode},
		{name: "fragment without its first", from: "pod1", src: "10.244.1.10:0", dst: "10.96.0.1:0", change: later, want: trace.EndDropped, reason: "fragment"},
		{name: "first fragment", from: "pod1", src: "10.244.1.10:1030", dst: "10.244.2.77:9", change: first, want: trace.EndWire},
		{name: "ARP for an announced address", from: "client", src: "192.0.2.100:0", dst: "192.0.2.60:0", change: who, want: trace.EndAnswered},
		{name: "ND for an announced address", from: "client", src: "[2001:db8::100]:0", dst: "[2001:db8::60]:0", change: who, want: trace.EndAnswered},
		{name: "a pod's ARP in another's name", from: "pod1", src: "10.244.1.11:0", dst: "169.254.1.1:0", change: who, want: trace.EndDropped, reason: "pod-arp"},
		{name: "a pod's ND in another's name", from: "pod1", src: "[fd00:244:1::11]:0", dst: "[fe80::1]:0", change: who, want: trace.EndDropped},
		{name: "RST of no flow", from: "pod1", src: "10.244.1.10:1031", dst: "10.96.0.1:80", want: trace.EndDropped, reason: "no-flow",
			change: func(p *trace.Packet) { p.Flags = headers.RST }},
	}
}

// TestTraceIsTrue asks what would happen to each packet, sends the very same
// one, and compares. The packets come one after another: later ones meet the
// flows of earlier ones.
func TestTraceIsTrue(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if err := l.d.SetServices(entries()); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{"192.0.2.60", "2001:db8::60"} {
			if err := l.d.Announce(datapath.Announcement{Addr: addr(a), IfIndex: l.places["client"].index}); err != nil {
				t.Fatal(err)
			}
		}
		for name := range l.places {
			l.news(name)
		}
		for _, c := range cases() {
			t.Run(c.name, func(t *testing.T) {
				packet := l.from(c.from, c.src, c.dst)
				if c.change != nil {
					c.change(&packet)
				}
				frame, there, back := l.ask(t, packet)
				if end := there.End; c.want != "" && end.Kind != c.want || c.reason != "" && end.Reason != c.reason {
					t.Errorf("trace says %s %s, want %s %s", end.Kind, end.Reason, c.want, c.reason)
				}
				l.send(c.from, frame)
				if err := l.check(c.from, there.End); err != nil {
					t.Fatal(err)
				}
				if from := l.answerer(there.End); back != nil && from != "" {
					l.send(from, back.Hops[0].In)
					if err := l.check(from, back.End); err != nil {
						t.Errorf("the answer: %v", err)
					}
				}
			})
		}
	})
}

// ask traces a packet.
func (l *lab) ask(t *testing.T, p trace.Packet) (frame []byte, there, back *trace.Walk) {
	t.Helper()
	there, back = l.walk(t, p)
	for _, walk := range []*trace.Walk{there, back} {
		t.Log(text(walk))
	}
	return there.Hops[0].In, there, back
}

// answerer is the place that answers what has ended so: a pod, or the node b on
// the same link. Who is outside has another idea of the node's address.
func (l *lab) answerer(end trace.End) string {
	for name, p := range l.places {
		if end.Kind == trace.EndPod && p.index == end.Link || end.Kind == trace.EndWire && name == "b" && end.Hop.IsValid() && l.has(p, end.Hop) {
			return name
		}
	}
	return ""
}

func (l *lab) walk(t *testing.T, p trace.Packet) (there, back *trace.Walk) {
	t.Helper()
	tracer, err := trace.Open(trace.Options{PinDir: pinDir, Masquerade: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	if err := tracer.Current(); err != nil {
		t.Error(err)
	}
	there, back, err = tracer.Walk(p)
	if err != nil {
		t.Fatal(err)
	}
	return there, back
}

// text is a walk for the log.
func text(w *trace.Walk) string {
	if w == nil {
		return "no answer"
	}
	var b strings.Builder
	for _, hop := range w.Hops {
		fmt.Fprintf(&b, "%s at %d: %s\n", cmp.Or(hop.Program, "stack"), hop.Link, headers.Read(hop.In))
		for _, line := range hop.Lines {
			fmt.Fprintf(&b, "  %s: %s\n", line.Topic, line.Text)
		}
	}
	fmt.Fprintf(&b, "end: %s %s by %d, hop %s", w.End.Kind, w.End.Reason, w.End.Link, w.End.Hop)
	return b.String()
}

// TestChangesNothing traces all packets, some of which would make flows, and
// compares all maps.
func TestChangesNothing(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if err := l.d.SetServices(entries()); err != nil {
			t.Fatal(err)
		}
		l.send("pod1", l.walkFrame(t, l.from("pod1", "10.244.1.10:999", "10.96.0.6:80"))) // flows and an affinity to read
		netlab.WaitFor(t, time.Second, "an affinity", func() error {
			if len(dump(t, "affinities")) == 0 {
				return errors.New("none")
			}
			return nil
		})
		before := l.dumps(t)
		for _, c := range cases() {
			packet := l.from(c.from, c.src, c.dst)
			if c.change != nil {
				c.change(&packet)
			}
			l.walk(t, packet)
		}
		if diff := gocmp.Diff(before, l.dumps(t)); diff != "" {
			t.Errorf("maps (-before +after):\n%s", diff)
		}
	})
}

func (l *lab) walkFrame(t *testing.T, p trace.Packet) []byte {
	there, _ := l.walk(t, p)
	return there.Hops[0].In
}

// dumps are the entries of all pinned maps, but for what this lab's own
// neighbours keep doing.
func (l *lab) dumps(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	for _, name := range []string{"config", "nics", "peers", "announced", "endpoints", "flows", "flows_new", "fragments", "frontends",
		"source_ranges", "affinities", "routes", "drops"} {
		all[name] = dump(t, name)
	}
	return all
}

func dump(t *testing.T, name string) map[string]string {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(pinDir+"/v1/maps/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	entries := map[string]string{}
	var key []byte
	perCPU, value := [][]byte{}, []byte{}
	for it := m.Iterate(); ; {
		var ok bool
		if m.Type() == ebpf.PerCPUArray {
			ok = it.Next(&key, &perCPU)
		} else {
			ok = it.Next(&key, &value)
		}
		if !ok {
			return entries
		}
		entries[fmt.Sprintf("%x", key)] = fmt.Sprintf("%x %x", value, perCPU)
	}
}

func TestReasons(t *testing.T) {
	reasons, err := datapathmaps.Reasons()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reasons {
		if r != "" && strings.HasPrefix(trace.ReasonText(r), "see ") {
			t.Errorf("reason %s has no text", r)
		}
	}
}

func roles(k service.Kind) service.NICRoles {
	if k == service.NodePort {
		return service.InternalNIC
	}
	return 0
}
