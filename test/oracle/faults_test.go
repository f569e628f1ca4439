// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// chainsForFault is in how many random clusters a mistake must show.
const chainsForFault = 60

// TestFaults puts mistakes between the objects and the maps, one at a time. The
// packets and connects alone must find each.
func TestFaults(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		n := newNode(t)
		for _, f := range faults() {
			t.Run(f.name, func(t *testing.T) {
				for seed := uint64(1); seed <= chainsForFault; seed++ {
					if err := n.follow(seed, f); err != nil {
						t.Logf("caught: %v", err)
						return
					}
				}
				t.Errorf("not caught in %d chains of states", chainsForFault)
			})
		}
	})
}

func faults() []fault {
	return []fault{
		{name: "mask of a source range swapped", entries: eachEntry(swapMasks)},
		{name: "port of a backend off by one", entries: eachEntry(nextPort)},
		{name: "IPv6 forgotten", entries: func(_, now []service.Entry) []service.Entry {
			return slices.DeleteFunc(now, func(e service.Entry) bool { return e.Frontend.IP.Is6() })
		}},
		{name: "scopes swapped", entries: eachEntry(swapScope)},
		{name: "slots of the state before", entries: staleSlots},
		{name: "source ranges ignored", entries: eachEntry(func(e *service.Entry) { e.SourceRanges = nil })},
		{name: "terminating endpoints used while ready ones exist", input: eachEndpoint(func(_ service.Input, ep *service.Endpoint) {
			ep.Ready = ep.Ready || ep.Serving
		})},
		{name: "hints count though one endpoint has none", input: eachEndpoint(func(in service.Input, ep *service.Endpoint) {
			if len(ep.ZoneHints) == 0 {
				ep.ZoneHints = []string{in.Node.Zone}
			}
		})},
		{name: "hints for nodes fall back to zones", input: eachEndpoint(func(_ service.Input, ep *service.Endpoint) {
			ep.NodeHints = nil
		})},
		{name: "a backend forgotten", entries: eachEntry(func(e *service.Entry) {
			if n := len(e.Backends); n > 1 {
				e.Backends = e.Backends[:n-1]
			}
		})},
		{name: "endpoints of suspect nodes used", input: func(in *service.Input) { in.Suspect = nil }},
		{name: "internalTrafficPolicy Local ignored", input: eachService(func(svc *service.Service) { svc.InternalLocal = false })},
		{name: "externalTrafficPolicy Local ignored", input: eachService(func(svc *service.Service) { svc.ExternalLocal = false })},
		{name: "reject and drop swapped", entries: eachEntry(func(e *service.Entry) { e.Empty = service.Drop - e.Empty })},
		{name: "affinity forgotten", input: eachService(func(svc *service.Service) { svc.Affinity = 0 })},
		{name: "NodePorts open on all NICs", input: eachService(func(svc *service.Service) {
			svc.NodePortNICs = service.InternalNIC | service.ExternalNIC
		})},
		{name: "UDP taken for TCP", entries: eachEntry(func(e *service.Entry) {
			if e.Frontend.Protocol == service.UDP {
				e.Frontend.Protocol = service.TCP
			}
		})},
		{name: "UDP flows moved though their endpoint serves", entries: eachEntry(func(e *service.Entry) { e.Serving = nil })},
		{name: "UDP flows left to endpoints that stopped", entries: keepServing},
		{name: "translated at the socket in spite of source ranges", entries: eachEntry(func(e *service.Entry) {
			e.SocketLB = e.Frontend.Scope == service.Cluster
		})},
	}
}

func eachEntry(change func(*service.Entry)) func(_, now []service.Entry) []service.Entry {
	return func(_, now []service.Entry) []service.Entry {
		for i := range now {
			change(&now[i])
		}
		slices.SortFunc(now, func(a, b service.Entry) int { return strings.Compare(a.Frontend.String(), b.Frontend.String()) })
		return slices.CompactFunc(now, func(a, b service.Entry) bool { return a.Frontend == b.Frontend })
	}
}

func eachService(change func(*service.Service)) func(*service.Input) {
	return func(in *service.Input) {
		for i := range in.Services {
			change(&in.Services[i])
		}
	}
}

func eachEndpoint(change func(service.Input, *service.Endpoint)) func(*service.Input) {
	return func(in *service.Input) {
		for _, list := range in.Endpoints {
			for i := range list {
				change(*in, &list[i])
			}
		}
	}
}

func swapMasks(e *service.Entry) {
	var swapped []netip.Prefix
	for _, r := range e.SourceRanges {
		swapped = append(swapped, netip.PrefixFrom(r.Addr(), r.Addr().BitLen()-r.Bits()).Masked())
	}
	e.SourceRanges = swapped
}

func nextPort(e *service.Entry) {
	e.Backends = slices.Clone(e.Backends)
	for i, b := range e.Backends {
		e.Backends[i].Addr = netip.AddrPortFrom(b.Addr.Addr(), b.Addr.Port()+1)
	}
}

func swapScope(e *service.Entry) {
	e.Frontend.Scope = service.External - e.Frontend.Scope
	e.SocketLB = e.SocketLB && e.Frontend.Scope == service.Cluster
}

// keepServing takes endpoints that served before for ones that still do.
func keepServing(before, now []service.Entry) []service.Entry {
	for i := range now {
		for _, old := range before {
			if old.Frontend == now[i].Frontend && old.Frontend.Protocol == service.UDP {
				now[i].Serving = slices.Concat(now[i].Serving, old.Serving)
			}
		}
	}
	return now
}

// staleSlots leaves a frontend the backends that it had, where it had some.
func staleSlots(before, now []service.Entry) []service.Entry {
	for i := range now {
		for _, old := range before {
			if old.Frontend == now[i].Frontend && len(old.Backends) > 0 && len(now[i].Backends) > 0 {
				now[i].Backends = old.Backends
			}
		}
	}
	return now
}
