// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	clusterIP  = "10.96.0.10"
	clusterIP6 = "fd00:96::10"
	lbIP       = "192.0.2.10"
	extIP      = "192.0.2.99"
	nodeAddr   = "172.18.0.2"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

// web is a Service of one TCP port with every kind of address.
func web(change ...func(*Service)) Service {
	s := Service{
		Namespace: "default", Name: "web",
		ClusterIPs:      addrs(clusterIP),
		ExternalIPs:     addrs(extIP),
		LoadBalancerIPs: addrs(lbIP),
		Ports:           []Port{{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

// ep is a ready endpoint of web's port at 8080; flags: "r" ready, "s" serving,
// "t" terminating.
func ep(ip, node, flags string, hints ...string) Endpoint {
	e := Endpoint{
		Addr: addr(ip), Port: 8080, Protocol: TCP, PortName: "http", Node: node,
		Ready:       strings.Contains(flags, "r"),
		Serving:     strings.ContainsAny(flags, "rs"),
		Terminating: strings.Contains(flags, "t"),
	}
	for _, h := range hints {
		kind, place, _ := strings.Cut(h, "=")
		if kind == "node" {
			e.NodeHints = append(e.NodeHints, place)
		} else {
			e.ZoneHints = append(e.ZoneHints, place)
		}
	}
	return e
}

func input(svc Service, endpoints ...Endpoint) Input {
	return Input{
		Node:      NodeInfo{Name: "n1", Zone: "z1", Addrs: addrs(nodeAddr)},
		Services:  []Service{svc},
		Endpoints: map[Name][]Endpoint{svc.ID(): endpoints},
	}
}

// show writes entries as one line each: frontend, scope, what serves it.
func show(entries []Entry) map[string]string {
	out := map[string]string{}
	for _, e := range entries {
		var to []string
		for _, b := range e.Backends {
			to = append(to, b.Addr.Addr().String())
		}
		what := strings.Join(to, " ")
		if what == "" {
			what = e.Empty.String()
		}
		out[e.Frontend.String()] = what
	}
	return out
}

const (
	atCluster = clusterIP + ":80/TCP cluster"
	atNodeC   = nodeAddr + ":30080/TCP cluster"
	atNodeX   = nodeAddr + ":30080/TCP external"
	atLBC     = lbIP + ":80/TCP cluster"
	atLBX     = lbIP + ":80/TCP external"
	atExtC    = extIP + ":80/TCP cluster"
	atExtX    = extIP + ":80/TCP external"
)

// want gives each frontend of web what its group says.
func want(cluster, openFromCluster, external string) map[string]string {
	return map[string]string{
		atCluster: cluster,
		atNodeC:   openFromCluster, atLBC: openFromCluster, atExtC: openFromCluster,
		atNodeX: external, atLBX: external, atExtX: external,
	}
}

func externalLocal(s *Service) { s.ExternalLocal = true }
func internalLocal(s *Service) { s.InternalLocal = true }

func TestBuildBackends(t *testing.T) {
	const a, b, c = "10.244.0.5", "10.244.1.5", "10.244.1.6"
	both := a + " " + b
	tests := []struct {
		name      string
		svc       Service
		endpoints []Endpoint
		want      map[string]string
	}{
		{"all kinds of address", web(), []Endpoint{ep(b, "n2", "r"), ep(a, "n1", "r")}, want(both, both, both)},
		{"no endpoints: reject", web(), nil, want("reject", "reject", "reject")},
		{"no usable endpoints: reject", web(), []Endpoint{ep(a, "n1", ""), ep(b, "n2", "t")}, want("reject", "reject", "reject")},
		{"no endpoints, policies Local: reject", web(externalLocal, internalLocal), nil, want("reject", "reject", "reject")},
		{"external Local: own endpoints for the outside, all for the cluster",
			web(externalLocal), []Endpoint{ep(a, "n1", "r"), ep(b, "n2", "r")}, want(both, both, a)},
		{"external Local, remote only: drop for the outside", web(externalLocal), []Endpoint{ep(b, "n2", "r")}, want(b, b, "drop")},
		{"internal Local: own endpoints for the ClusterIP alone",
			web(internalLocal), []Endpoint{ep(a, "n1", "r"), ep(b, "n2", "r")}, want(a, both, both)},
		{"internal Local, remote only: drop", web(internalLocal), []Endpoint{ep(b, "n2", "r")}, want("drop", b, b)},
		{"ready before terminating", web(), []Endpoint{ep(a, "n1", "st"), ep(b, "n2", "r")}, want(b, b, b)},
		{"none ready: serving and terminating", web(), []Endpoint{ep(a, "n1", "st"), ep(b, "n2", "t"), ep(c, "n2", "")}, want(a, a, a)},
		{"serving alone is not enough", web(), []Endpoint{ep(a, "n1", "s")}, want("reject", "reject", "reject")},
		{"Local set judged apart: own terminating one while others are ready",
			web(externalLocal), []Endpoint{ep(a, "n1", "st"), ep(b, "n2", "r")}, want(b, b, a)},
		{"Local: terminating remote only: drop", web(externalLocal), []Endpoint{ep(b, "n2", "st")}, want(b, b, "drop")},
		{"endpoint without node is not local", web(externalLocal), []Endpoint{ep(a, "", "r")}, want(a, a, "drop")},

		{"node hints on all, one for this node", web(),
			[]Endpoint{ep(a, "n1", "r", "node=n1", "zone=z1"), ep(b, "n2", "r", "node=n2", "zone=z1")}, want(a, a, a)},
		{"node hints, none for this node: zone hints", web(),
			[]Endpoint{ep(a, "n3", "r", "node=n3", "zone=z2"), ep(b, "n2", "r", "node=n2", "zone=z1")}, want(b, b, b)},
		{"a node hint is missing: all", web(),
			[]Endpoint{ep(a, "n1", "r", "node=n1"), ep(b, "n2", "r")}, want(both, both, both)},
		{"zone hints on all, one for this zone", web(),
			[]Endpoint{ep(a, "n3", "r", "zone=z1"), ep(b, "n2", "r", "zone=z2")}, want(a, a, a)},
		{"zone hints, none for this zone: all", web(),
			[]Endpoint{ep(a, "n3", "r", "zone=z3"), ep(b, "n2", "r", "zone=z2")}, want(both, both, both)},
		{"a zone hint is missing: all", web(),
			[]Endpoint{ep(a, "n3", "r", "zone=z1"), ep(b, "n2", "r")}, want(both, both, both)},
		{"hints of what is not ready don't count", web(),
			[]Endpoint{ep(a, "n3", "r", "zone=z1"), ep(b, "n2", "r", "zone=z2"), ep(c, "n2", "")}, want(a, a, a)},
		{"hints don't apply to terminating endpoints", web(),
			[]Endpoint{ep(a, "n3", "st", "zone=z1"), ep(b, "n2", "st", "zone=z2")}, want(both, both, both)},
		{"hints don't apply to policy Local", web(externalLocal),
			[]Endpoint{ep(a, "n1", "r", "zone=z2"), ep(b, "n2", "r", "zone=z1")}, want(b, b, a)},

		{"duplicate endpoints once, the ready one counts", web(),
			[]Endpoint{ep(a, "n1", "r"), ep(a, "n1", "r"), ep(b, "n2", ""), ep(b, "n2", "r")}, want(both, both, both)},
		{"another port's and protocol's endpoints don't serve", web(), []Endpoint{
			{Addr: addr(a), Port: 53, Protocol: UDP, PortName: "http", Node: "n1", Ready: true, Serving: true},
			{Addr: addr(b), Port: 53, Protocol: TCP, PortName: "dns", Node: "n1", Ready: true, Serving: true},
		}, want("reject", "reject", "reject")},
		{"another family's endpoints don't serve", web(), []Endpoint{ep("fd00::5", "n1", "r")}, want("reject", "reject", "reject")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, show(Build(input(tt.svc, tt.endpoints...)))); diff != "" {
				t.Errorf("frontends (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBuildSuspect(t *testing.T) {
	const a, b = "10.244.0.5", "10.244.1.5"
	both := a + " " + b
	tests := []struct {
		name, suspect string
		svc           Service
		endpoints     []Endpoint
		want          map[string]string
	}{
		{"left out", "n2", web(), []Endpoint{ep(a, "n1", "r"), ep(b, "n2", "r")}, want(a, a, a)},
		{"no others: kept", "n2", web(), []Endpoint{ep(a, "n1", ""), ep(b, "n2", "r")}, want(b, b, b)},
		{"others only terminate: kept", "n2", web(), []Endpoint{ep(a, "n1", "st"), ep(b, "n2", "r")}, want(b, b, b)},
		{"terminating ones too", "n2", web(), []Endpoint{ep(a, "n3", "st"), ep(b, "n2", "st")}, want(a, a, a)},
		{"before hints", "n2", web(),
			[]Endpoint{ep(a, "n3", "r", "zone=z2"), ep(b, "n2", "r", "zone=z1")}, want(a, a, a)},
		{"never the node itself", "n1", web(externalLocal), []Endpoint{ep(a, "n1", "r"), ep(b, "n2", "r")}, want(both, both, a)},
		{"policy Local: others' are no matter", "n2", web(externalLocal), []Endpoint{ep(b, "n2", "r")}, want(b, b, "drop")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.svc, tt.endpoints...)
			in.Suspect = map[string]bool{tt.suspect: true}
			if diff := cmp.Diff(tt.want, show(Build(in))); diff != "" {
				t.Errorf("frontends (-want +got):\n%s", diff)
			}
		})
	}
}

func find(t *testing.T, entries []Entry, frontend string) Entry {
	t.Helper()
	for _, e := range entries {
		if e.Frontend.String() == frontend {
			return e
		}
	}
	t.Fatalf("want frontend %s, got none", frontend)
	return Entry{}
}

func TestBuildEntry(t *testing.T) {
	svc := web(func(s *Service) {
		s.Affinity = 3 * time.Hour
		s.SourceRanges = []netip.Prefix{
			netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("fd00::/8"),
			netip.MustParsePrefix("198.51.100.7/24"), netip.MustParsePrefix("203.0.113.0/24"),
		}
	})
	entries := Build(input(svc, ep("10.244.0.5", "n1", "r"), ep("10.244.1.5", "n2", "r")))
	backends := []Backend{
		{Addr: netip.MustParseAddrPort("10.244.0.5:8080"), Node: "n1", Local: true},
		{Addr: netip.MustParseAddrPort("10.244.1.5:8080"), Node: "n2"},
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24")}
	entry := func(kind Kind, ip string, port uint16, scope Scope) Entry {
		return Entry{
			Frontend: Frontend{Address{addr(ip), port, TCP}, scope},
			Port:     PortName{"default", "web", "http"}, Kind: kind, Backends: backends, Affinity: 3 * time.Hour,
			Consistent: scope == External, SocketLB: scope == Cluster,
		}
	}
	tests := []struct {
		frontend string
		want     func() Entry
	}{
		{atCluster, func() Entry { return entry(ClusterIP, clusterIP, 80, Cluster) }},
		{atExtC, func() Entry { return entry(ExternalIP, extIP, 80, Cluster) }},
		{atExtX, func() Entry { return entry(ExternalIP, extIP, 80, External) }},
		{atNodeX, func() Entry {
			e := entry(NodePort, nodeAddr, 30080, External)
			e.NodePortRoles = InternalNIC
			return e
		}},
		{atLBX, func() Entry {
			e := entry(LoadBalancer, lbIP, 80, External)
			e.SourceRanges = ranges
			return e
		}},
		{atLBC, func() Entry {
			e := entry(LoadBalancer, lbIP, 80, Cluster)
			e.SourceRanges, e.SocketLB = ranges, false
			return e
		}},
	}
	for _, tt := range tests {
		t.Run(tt.frontend, func(t *testing.T) {
			if diff := cmp.Diff(tt.want(), find(t, entries, tt.frontend), equalAddrs); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
	if len(entries) != 7 {
		t.Errorf("want 7 entries, got %d", len(entries))
	}
}

var equalAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestBuildRangesThatRestrictNothing(t *testing.T) {
	for _, ranges := range [][]string{{"fd00::/8"}, {"203.0.113.0/24", "0.0.0.0/0"}} {
		svc := web(func(s *Service) {
			for _, r := range ranges {
				s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(r))
			}
		})
		e := find(t, Build(input(svc, ep("10.244.0.5", "n1", "r"))), atLBC)
		if len(e.SourceRanges) != 0 || !e.SocketLB {
			t.Errorf("%v: want no ranges and socket translation, got %v, %v", ranges, e.SourceRanges, e.SocketLB)
		}
	}
}

func TestBuildEmptyIsNotForSockets(t *testing.T) {
	for _, e := range Build(input(web())) {
		if e.SocketLB {
			t.Errorf("want %s left to the packet path, got SocketLB", e.Frontend)
		}
	}
}

func TestBuildFamilies(t *testing.T) {
	endpoints := []Endpoint{ep("10.244.0.5", "n1", "r"), ep("fd00:244::5", "n1", "r")}
	node := NodeInfo{Name: "n1", Addrs: addrs(nodeAddr, "fd00:18::2", "127.0.0.1", "::1")}
	dual := web(func(s *Service) { s.ClusterIPs = addrs(clusterIP6, clusterIP) })
	single := web(func(s *Service) { s.LoadBalancerIPs = addrs(lbIP, "fd00:c0::10") })

	in := input(dual, endpoints...)
	in.Node = node
	got := show(Build(in))
	if got["[fd00:96::10]:80/TCP cluster"] != "fd00:244::5" || got["[fd00:18::2]:30080/TCP external"] != "fd00:244::5" ||
		got[atCluster] != "10.244.0.5" {
		t.Errorf("want each family served by its own endpoints, got %v", got)
	}

	in = input(single, endpoints...)
	in.Node = node
	for _, e := range Build(in) {
		if e.Frontend.IP.Is6() {
			t.Errorf("want no IPv6 frontend of a single-stack Service, got %s", e.Frontend)
		}
		if e.Frontend.IP.IsLoopback() {
			t.Errorf("want no NodePort on loopback, got %s", e.Frontend)
		}
	}
}

func TestBuildNodePortsOfOtherNodes(t *testing.T) {
	const other = "172.18.0.3:30080/TCP"
	build := func(change func(*Service)) []Entry {
		in := input(web(change), ep("10.244.1.5", "n2", "r"))
		in.Node.Others = addrs("172.18.0.3", "fd00:18::3")
		return Build(in)
	}
	entries := build(func(*Service) {})
	if e := find(t, entries, other+" cluster"); !e.SocketLB || len(e.Backends) != 1 {
		t.Errorf("want it translated at the socket, got %+v", e)
	}
	got := show(entries)
	for _, frontend := range []string{other + " external", "[fd00:18::3]:30080/TCP cluster"} {
		if _, ok := got[frontend]; ok {
			t.Errorf("want no frontend %s", frontend)
		}
	}
	if _, ok := show(build(func(s *Service) { s.ExternalLocal = true }))[other+" cluster"]; ok {
		t.Error("policy Local: want the other node asked")
	}
}

func TestBuildNodePortNICs(t *testing.T) {
	own := func(s *Service) { s.NodePortNICs = ExternalNIC }
	tests := []struct {
		name      string
		svc       Service
		byDefault NICRoles
		want      NICRoles
	}{
		{"internal by default", web(), 0, InternalNIC},
		{"configured default", web(), InternalNIC | ExternalNIC, InternalNIC | ExternalNIC},
		{"the Service's own", web(own), InternalNIC, ExternalNIC},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.svc)
			in.NodePortNICs = tt.byDefault
			if got := find(t, Build(in), atNodeX).NodePortRoles; got != tt.want {
				t.Errorf("want roles %b, got %b", tt.want, got)
			}
		})
	}
}

// Whoever may write Services must not be able to take over another's address.
func TestBuildClashes(t *testing.T) {
	victim := web()
	thief := Service{
		Namespace: "a", Name: "thief", ClusterIPs: addrs("10.96.0.66"), ExternalIPs: addrs(clusterIP, lbIP),
		Ports: []Port{{Name: "http", Protocol: TCP, Port: 80}},
	}
	in := input(victim, ep("10.244.0.5", "n1", "r"))
	in.Services = append(in.Services, thief)
	entries := Build(in)
	for _, f := range []string{atCluster, atLBC, atLBX} {
		if got := find(t, entries, f).Port.Name; got != "web" {
			t.Errorf("want %s to stay web's, got %s", f, got)
		}
	}
	// An address that a Service has twice keeps its source ranges.
	twice := web(func(s *Service) {
		s.ExternalIPs = addrs(lbIP)
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	})
	if e := find(t, Build(input(twice)), atLBX); e.Kind != LoadBalancer || len(e.SourceRanges) != 1 {
		t.Errorf("want the LoadBalancer address with its range, got %v %v", e.Kind, e.SourceRanges)
	}
}

func TestBuildPorts(t *testing.T) {
	svc := web(func(s *Service) {
		s.ExternalIPs, s.LoadBalancerIPs = nil, nil
		s.Ports = []Port{
			{Name: "dns", Protocol: UDP, Port: 53}, {Name: "dns-tcp", Protocol: TCP, Port: 53}, {Name: "assoc", Protocol: SCTP, Port: 53},
		}
	})
	at := func(name string, p Protocol, port uint16) Endpoint {
		return Endpoint{Addr: addr("10.244.0.5"), Port: port, Protocol: p, PortName: name, Node: "n1", Ready: true}
	}
	var got []string
	for _, e := range Build(input(svc, at("dns", UDP, 5353), at("dns-tcp", TCP, 5354), at("assoc", SCTP, 5355))) {
		got = append(got, fmt.Sprint(e.Frontend, " ", e.Port, " ", e.Backends[0].Addr))
	}
	want := []string{
		"10.96.0.10:53/TCP cluster default/web:dns-tcp 10.244.0.5:5354",
		"10.96.0.10:53/UDP cluster default/web:dns 10.244.0.5:5353",
		"10.96.0.10:53/SCTP cluster default/web:assoc 10.244.0.5:5355",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestHealthChecks(t *testing.T) {
	local := func(name string, port uint16) Service {
		return web(func(s *Service) { s.Name, s.ExternalLocal, s.HealthCheckNodePort = name, true, port })
	}
	in := Input{
		Node:     NodeInfo{Name: "n1"},
		Services: []Service{local("b", 31001), local("a", 31000), web()},
		Endpoints: map[Name][]Endpoint{
			{"default", "a"}: {
				ep("10.244.0.5", "n1", "r"), ep("10.244.0.5", "n1", "r"), ep("10.244.0.6", "n1", "r"),
				ep("10.244.0.7", "n1", "st"), ep("10.244.1.5", "n2", "r"),
			},
			{"default", "b"}: {ep("10.244.1.5", "n2", "r")},
		},
	}
	want := []HealthCheck{{Name{"default", "a"}, 31000, 2}, {Name{"default", "b"}, 31001, 0}}
	if diff := cmp.Diff(want, HealthChecks(in)); diff != "" {
		t.Errorf("health checks (-want +got):\n%s", diff)
	}
}

// A backend for each packet is nothing for a socket, which keeps its own.
func TestBuildPerPacket(t *testing.T) {
	svc := web(func(s *Service) {
		s.UDPPerPacket = true
		s.Ports = append(s.Ports, Port{Name: "log", Protocol: UDP, Port: 514})
	})
	log := Endpoint{Addr: netip.MustParseAddr("10.244.0.5"), Port: 514, Protocol: UDP, PortName: "log", Ready: true, Serving: true}
	entries := Build(input(svc, ep("10.244.0.5", "n1", "r"), log))
	found := 0
	for _, e := range entries {
		udp := e.Frontend.Protocol == UDP
		if udp {
			found++
		}
		if e.PerPacket != udp || udp && e.SocketLB {
			t.Errorf("%s: per packet %v, by sockets %v", e.Frontend, e.PerPacket, e.SocketLB)
		}
	}
	if found == 0 {
		t.Error("no entry for UDP")
	}
}
