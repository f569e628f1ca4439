// SPDX-License-Identifier: Apache-2.0

package services

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// Frontend is what the maps say of one frontend.
type Frontend struct {
	service.Frontend
	Service    uint32 // index of its word
	Generation uint16 // of its word
	Slots      int
	Backends   []netip.AddrPort
	Affinity   time.Duration
	Consistent bool
	SocketLB   bool
	Restricted bool // to source ranges
	Reject     bool // when it has no backends: reject, not drop
	NodePorts  service.NICRoles
}

// Frontends lists all frontends that the maps hold, sorted by address, port,
// protocol and scope.
func (s *Services) Frontends() []Frontend {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Frontend
	for key, value := range s.frontends {
		if value.Flags&uint16(objects.MapFrontendFlagsFE_ADDRESS) == 0 {
			all = append(all, s.frontend(key, value))
		}
	}
	slices.SortFunc(all, func(a, b Frontend) int {
		return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
	})
	return all
}

func (s *Services) frontend(key objects.MapFrontendKey, value objects.MapFrontend) Frontend {
	f := Frontend{
		Frontend: service.Frontend{
			Address: service.Address{
				IP: key.Addr.Netip(), Port: objects.Port(key.Port), Protocol: service.Protocol(key.Proto),
			},
			Scope: service.Scope(key.Scope),
		},
		Service:    value.Service,
		Generation: s.generation(value.Service),
		Affinity:   time.Duration(value.Affinity) * time.Second,
		SocketLB:   value.Flags&uint16(objects.MapFrontendFlagsFE_SOCKET) != 0,
		Restricted: value.Ranges != 0,
		Reject:     value.Flags&uint16(objects.MapFrontendFlagsFE_REJECT) != 0,
		NodePorts:  service.NICRoles(value.NicRoles),
	}
	if t := s.tables[value.Service]; t != nil {
		f.Slots, f.Consistent = int(t.slots.N), t.consistent
		for _, b := range t.backends {
			f.Backends = append(f.Backends, b.Addr)
		}
	}
	return f
}
