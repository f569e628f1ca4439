// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTableIsBuild changes Services and the node at random, and compares with
// Build of everything each time.
func TestTableIsBuild(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var table Table
	in := random(r)
	in.Services = nil
	has := map[Name]Service{}
	for round := range 3000 {
		other := random(r)
		for range r.IntN(3) {
			svc := other.Services[r.IntN(len(other.Services))]
			if r.IntN(3) == 0 {
				delete(has, svc.ID())
				table.Delete(svc.ID())
				continue
			}
			has[svc.ID()] = svc
			in.Endpoints[svc.ID()] = other.Endpoints[svc.ID()]
			table.Set(svc, other.Endpoints[svc.ID()])
		}
		if r.IntN(20) == 0 {
			in.Node.Zone, in.NodePortNICs = fmt.Sprint("z", r.IntN(2)), NICRoles(r.IntN(3))
		}
		if r.IntN(5) == 0 {
			in.Suspect = other.Suspect
		}
		table.SetNode(in.Node, in.NodePortNICs)
		table.SetSuspect(in.Suspect)
		in.Services = in.Services[:0]
		for _, svc := range has {
			in.Services = append(in.Services, svc)
		}
		want, got := Build(in), table.Entries()
		if len(want)+len(got) > 0 && !reflect.DeepEqual(want, got) {
			t.Fatalf("round %d (-Build +Table):\n%s", round, cmp.Diff(want, got, equalAddrs))
		}
	}
}

func TestTableKeepsWhatItReturned(t *testing.T) {
	var table Table
	table.SetNode(NodeInfo{Name: "n1"}, 0)
	svc := web(func(s *Service) { s.ExternalIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = nil, nil, 0 })
	table.Set(svc, []Endpoint{ep("10.244.0.5", "n1", "r")})
	before := table.Entries()
	table.Set(svc, nil)
	if after := table.Entries(); len(before[0].Backends) != 1 || len(after[0].Backends) != 0 {
		t.Errorf("want the old entries as they were, got %v, then %v", before, after)
	}
	table.Delete(svc.ID())
	if got := table.Entries(); len(got) != 0 {
		t.Errorf("want none, got %v", got)
	}
}

func BenchmarkTable(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint("one change in ", services), func(b *testing.B) {
			var table Table
			table.SetNode(NodeInfo{Name: "n0"}, 0)
			var endpoints []Endpoint
			for j := range 10 {
				endpoints = append(endpoints, ep(fmt.Sprintf("10.244.%d.1", j), fmt.Sprint("n", j), "r"))
			}
			var svc Service
			for i := range services {
				svc = web(func(s *Service) {
					s.Name, s.ExternalIPs, s.LoadBalancerIPs = fmt.Sprint("s", i), nil, nil
					s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}
				})
				table.Set(svc, endpoints)
			}
			table.Entries()
			b.ReportAllocs()
			for b.Loop() {
				table.Set(svc, endpoints)
				table.Entries()
			}
		})
	}
}
