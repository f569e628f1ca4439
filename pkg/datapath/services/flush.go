// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// endpoints is a set of endpoints of a UDP frontend.
type endpoints = map[netip.AddrPort]bool

// add adds all endpoints that flows of an entry may stay with.
func add(set endpoints, e *service.Entry) {
	for _, addr := range e.Serving {
		set[addr] = true
	}
	for _, b := range e.Backends {
		set[b.Addr] = true
	}
}

// flush deletes the flows, both directions, of UDP frontends in the change to
// endpoints that no longer serve. Flows to those that do go on, also where
// policies, hints or termination keep new ones away, and so does a TCP flow until
// its ends close it: as with kube-proxy.
func (s *Services) flush(c change) error {
	serving, old := s.serving(c), c.old
	if s.entries == nil {
		old = s.served // all is compared
	}
	ended := stopped(old, serving)
	if len(serving) == 0 || s.entries != nil && !ended {
		return nil
	}
	if ended && s.stopped != nil {
		s.stopped(serving)
	}
	var errs []error
	for _, m := range []*ebpf.Map{s.maps.Flows, s.maps.FlowsNew} {
		if err := flush(m, serving); err != nil {
			errs = append(errs, fmt.Errorf("flush flows: %w", err))
		}
	}
	return errors.Join(errs...)
}

// serving returns the UDP frontends of the change, with what serves them now. Of
// one that is gone nothing does.
func (s *Services) serving(c change) map[netip.AddrPort]endpoints {
	all := map[netip.AddrPort]endpoints{}
	for i := range c.entries {
		e := &c.entries[i]
		if e.Frontend.Protocol != service.UDP {
			continue
		}
		at := netip.AddrPortFrom(e.Frontend.IP, e.Frontend.Port)
		if all[at] == nil {
			all[at] = endpoints{}
		}
		add(all[at], e)
	}
	for _, key := range c.had {
		if key.Proto != uint8(service.UDP) || s.has(key) {
			continue
		}
		if at := netip.AddrPortFrom(key.Addr.Netip(), objects.Port(key.Port)); all[at] == nil {
			all[at] = endpoints{}
		}
	}
	return all
}

// has tells whether a frontend is there, in whichever scope.
func (s *Services) has(key objects.MapFrontendKey) bool {
	for _, scope := range []objects.MapScope{objects.MapScopeSCOPE_CLUSTER, objects.MapScopeSCOPE_EXTERNAL} {
		key.Scope = uint8(scope)
		if _, ok := s.frontends[key]; ok {
			return true
		}
	}
	return false
}

// stopped tells whether one of the old entries' endpoints serves no more.
func stopped(old []service.Entry, serving map[netip.AddrPort]endpoints) bool {
	for i := range old {
		e := &old[i]
		now, ok := serving[netip.AddrPortFrom(e.Frontend.IP, e.Frontend.Port)]
		if !ok || e.Frontend.Protocol != service.UDP {
			continue
		}
		had := endpoints{}
		add(had, e)
		for addr := range had {
			if !now[addr] {
				return true
			}
		}
	}
	return false
}

func flush(m *ebpf.Map, serving map[netip.AddrPort]endpoints) error {
	var doomed []objects.MapFlowKey
	err := maps.EachFlow(m, func(key objects.MapFlowKey, flow *objects.MapFlow) {
		if key.Proto != uint8(service.UDP) || flow.Backend == 0 {
			return
		}
		frontend, backend := flowEnds(key, flow)
		if set, ok := serving[frontend]; ok && !set[backend] {
			doomed = append(doomed, key)
		}
	})
	if err != nil {
		return err
	}
	for _, key := range doomed {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// flowEnds returns the frontend and the backend of a flow, from either of its
// directions.
func flowEnds(key objects.MapFlowKey, flow *objects.MapFlow) (frontend, backend netip.AddrPort) {
	if flow.Flags&uint8(objects.MapFlowFlagsFLOW_REPLY) != 0 {
		return addrOf(flow.Saddr, flow.Sport), addrOf(key.Saddr, key.Sport)
	}
	return addrOf(key.Daddr, key.Dport), addrOf(flow.Daddr, flow.Dport)
}

func addrOf(addr objects.MapAddr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addr.Netip(), objects.Port(port))
}
