// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// random makes an input with few names, addresses and hints, so that they clash.
func random(r *rand.Rand) Input {
	in := Input{
		Node:      NodeInfo{Name: "n0", Zone: "z0", Addrs: addrs("172.18.0.2", "fd00:18::2")},
		Endpoints: map[Name][]Endpoint{},
	}
	flip := func() bool { return r.IntN(2) == 0 }
	in.Suspect = map[string]bool{"n0": r.IntN(5) == 0, "n1": r.IntN(3) == 0, "n2": r.IntN(4) == 0}
	pick := func(format string, n int) string { return fmt.Sprintf(format, r.IntN(n)) }
	protocols := []Protocol{TCP, UDP, SCTP}
	for i := range 1 + r.IntN(6) {
		s := Service{
			Namespace: "ns", Name: fmt.Sprint("s", i),
			ClusterIPs:      addrs(fmt.Sprintf("10.96.0.%d", i)),
			LoadBalancerIPs: addrs(pick("192.0.2.%d", 4)),
			ExternalIPs:     addrs(pick("192.0.2.%d", 4), pick("10.96.0.%d", 8)),
			ExternalLocal:   flip(), InternalLocal: flip(),
		}
		if flip() {
			s.ClusterIPs = append(s.ClusterIPs, addr(fmt.Sprintf("fd00:96::%d", i)))
		}
		if flip() {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("fd00::/8")}
		}
		for p := range 1 + r.IntN(3) {
			s.Ports = append(s.Ports, Port{
				Name: fmt.Sprint("p", p), Protocol: protocols[r.IntN(3)], Port: uint16(80 + r.IntN(2)), NodePort: uint16(r.IntN(2) * (30000 + 10*i + p)),
			})
		}
		for range r.IntN(8) {
			e := ep(pick("10.244.0.%d", 5), pick("n%d", 3), []string{"", "r", "s", "st", "t"}[r.IntN(5)])
			if flip() {
				e.Addr = addr(pick("fd00:244::%d", 5))
			}
			port := s.Ports[r.IntN(len(s.Ports))]
			e.PortName, e.Protocol = port.Name, port.Protocol
			if r.IntN(4) > 0 {
				e.NodeHints = []string{pick("n%d", 3)}
			}
			if r.IntN(4) > 0 {
				e.ZoneHints = []string{pick("z%d", 3)}
			}
			in.Endpoints[s.ID()] = append(in.Endpoints[s.ID()], e)
		}
		in.Services = append(in.Services, s)
	}
	return in
}

func shuffled(r *rand.Rand, in Input) Input {
	mix := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
	out := in
	out.Services = slices.Clone(in.Services)
	mix(len(out.Services), func(i, j int) { out.Services[i], out.Services[j] = out.Services[j], out.Services[i] })
	out.Endpoints = map[Name][]Endpoint{}
	for name, list := range in.Endpoints {
		list = slices.Clone(list)
		mix(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		out.Endpoints[name] = list
	}
	for i := range out.Services {
		s := &out.Services[i]
		s.Ports, s.SourceRanges = slices.Clone(s.Ports), slices.Clone(s.SourceRanges)
		mix(len(s.Ports), func(i, j int) { s.Ports[i], s.Ports[j] = s.Ports[j], s.Ports[i] })
		mix(len(s.SourceRanges), func(i, j int) { s.SourceRanges[i], s.SourceRanges[j] = s.SourceRanges[j], s.SourceRanges[i] })
	}
	return out
}

func TestBuildOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		in := random(r)
		if want, got := Build(in), Build(shuffled(r, in)); !reflect.DeepEqual(want, got) {
			t.Fatalf("input %d, shuffled (-in order +shuffled):\n%s", i, cmp.Diff(want, got, equalAddrs))
		}
	}
}

// TestBuildAgainstReference compares with the rules written down once more,
// slowly: one frontend, one question at a time.
func TestBuildAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 5000 {
		in := random(r)
		entries := Build(in)
		if !slices.IsSortedFunc(entries, func(a, b Entry) int { return compareEntries(a, b) }) {
			t.Fatalf("input %d: want entries sorted", i)
		}
		for _, e := range entries {
			backends, empty := reference(in, e)
			var got []netip.AddrPort
			for _, b := range e.Backends {
				got = append(got, b.Addr)
				if b.Local != (b.Node == "n0") {
					t.Fatalf("input %d, %s: backend %v: want Local for node n0 only", i, e.Frontend, b)
				}
			}
			if !slices.Equal(got, backends) || (len(got) == 0 && e.Empty != empty) {
				t.Fatalf("input %d, %s of %s: want %v (%s), got %v (%s)", i, e.Frontend, e.Port, backends, empty, got, e.Empty)
			}
			if e.SocketLB && (len(got) == 0 || len(e.SourceRanges) > 0 || e.Frontend.Scope == External) {
				t.Fatalf("input %d, %s: want no socket translation", i, e.Frontend)
			}
		}
	}
}

func reference(in Input, e Entry) ([]netip.AddrPort, Action) {
	i := slices.IndexFunc(in.Services, func(s Service) bool { return s.Name == e.Port.Name })
	svc := in.Services[i]
	var all []Endpoint
	for _, ep := range in.Endpoints[svc.ID()] {
		if ep.PortName == e.Port.Port && ep.Protocol == e.Frontend.Protocol && ep.Addr.Is4() == e.Frontend.IP.Is4() {
			all = append(all, ep)
		}
	}
	ready, serving, own, ownReady := 0, 0, 0, 0
	nodeHints, zoneHints, forNode, forZone := true, true, false, false
	dead := func(ep Endpoint) bool { return ep.Node != "n0" && in.Suspect[ep.Node] }
	alive := false // one of those that may serve is on a node that lives
	for _, ep := range all {
		alive = alive || ep.Ready && !dead(ep)
		ready += map[bool]int{true: 1}[ep.Ready]
	}
	for _, ep := range all {
		alive = alive || ready == 0 && ep.Serving && ep.Terminating && !dead(ep)
	}
	for _, ep := range all {
		local := ep.Node == "n0"
		if ep.Ready && !(alive && dead(ep)) {
			nodeHints = nodeHints && len(ep.NodeHints) > 0
			zoneHints = zoneHints && len(ep.ZoneHints) > 0
			forNode = forNode || slices.Contains(ep.NodeHints, "n0")
			forZone = forZone || slices.Contains(ep.ZoneHints, "z0")
			if local {
				ownReady++
			}
		}
		if ep.Serving && ep.Terminating {
			serving++
		}
		if local && (ep.Ready || ep.Serving && ep.Terminating) {
			own++
		}
	}
	onlyLocal := e.Kind == ClusterIP && svc.InternalLocal || e.Frontend.Scope == External && svc.ExternalLocal
	set := map[netip.AddrPort]bool{}
	for _, ep := range all {
		yes := false
		switch last := ep.Serving && ep.Terminating; {
		case onlyLocal && ownReady > 0:
			yes = ep.Ready && ep.Node == "n0"
		case onlyLocal:
			yes = last && ep.Node == "n0"
		case ready == 0:
			yes = last
		case nodeHints && forNode:
			yes = ep.Ready && slices.Contains(ep.NodeHints, "n0")
		case zoneHints && forZone:
			yes = ep.Ready && slices.Contains(ep.ZoneHints, "z0")
		default:
			yes = ep.Ready
		}
		if yes && !(alive && dead(ep)) {
			set[netip.AddrPortFrom(ep.Addr, ep.Port)] = true
		}
	}
	var list []netip.AddrPort
	for a := range set {
		list = append(list, a)
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	if onlyLocal && own == 0 && ready+serving > 0 {
		return list, Drop
	}
	return list, Reject
}

func BenchmarkBuild(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(services, " Services of 10"), func(b *testing.B) {
			in := Input{Node: NodeInfo{Name: "n0"}, Endpoints: map[Name][]Endpoint{}}
			for i := range services {
				s := web(func(s *Service) {
					s.Name, s.ExternalIPs, s.LoadBalancerIPs = fmt.Sprint("s", i), nil, nil
					s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}
				})
				for j := range 10 {
					in.Endpoints[s.ID()] = append(in.Endpoints[s.ID()], ep(fmt.Sprintf("10.244.%d.%d", j, i%250+1), fmt.Sprint("n", j), "r"))
				}
				in.Services = append(in.Services, s)
			}
			b.ReportAllocs()
			for b.Loop() {
				Build(in)
			}
		})
	}
}
