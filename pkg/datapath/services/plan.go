// SPDX-License-Identifier: Apache-2.0

package services

import (
	"slices"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// group is what shares one word: the frontends of one Service port that have
// the same backends.
type group struct {
	port       service.PortName
	proto      service.Protocol
	consistent bool
	backends   []service.Backend
	serving    endpoints // of UDP
	word       uint32    // 0: not known yet
	frontends  []objects.MapFrontendKey
}

// plan is the desired state.
type plan struct {
	groups    []*group
	frontends map[objects.MapFrontendKey]wanted
}

// wanted is a frontend and where its word comes from.
type wanted struct {
	port  service.PortName
	entry *service.Entry // nil: an address alone
	group *group         // nil with it
}

// plan sorts entries into groups and gives each group the word that one of its
// frontends has already, so that an unchanged Service keeps its word, and a
// changed one its frontends.
func (s *Services) plan(entries []service.Entry) *plan {
	p := &plan{frontends: make(map[objects.MapFrontendKey]wanted, len(entries)*2)}
	type name struct {
		port       service.PortName
		proto      service.Protocol
		consistent bool
	}
	byName := make(map[name][]*group, len(entries))
	for i := range entries {
		e := &entries[i]
		n := name{e.Port, e.Frontend.Protocol, e.Consistent}
		g := find(byName[n], e.Backends)
		if g == nil {
			g = &group{port: e.Port, proto: e.Frontend.Protocol, consistent: e.Consistent, backends: e.Backends}
			byName[n] = append(byName[n], g)
			p.groups = append(p.groups, g)
		}
		if len(e.Serving) > 0 {
			if g.serving == nil {
				g.serving = endpoints{}
			}
			add(g.serving, e)
		}
		key := frontendKey(e.Frontend)
		g.frontends = append(g.frontends, key)
		p.frontends[key] = wanted{e.Port, e, g}
		if hasAddress(e) {
			p.frontends[addressKey(e.Frontend)] = wanted{port: e.Port}
		}
	}
	claimed := map[uint32]bool{0: true}
	for _, g := range p.groups {
		for _, key := range g.frontends {
			if word := s.frontends[key].Service; !claimed[word] {
				claimed[word] = true
				g.word = word
				break
			}
		}
	}
	return p
}

func find(groups []*group, backends []service.Backend) *group {
	for _, g := range groups {
		if slices.Equal(g.backends, backends) {
			return g
		}
	}
	return nil
}

func frontendKey(f service.Frontend) objects.MapFrontendKey {
	return objects.MapFrontendKey{
		Addr: objects.Addr(f.IP), Port: objects.Port(f.Port), Proto: uint8(f.Protocol), Scope: uint8(f.Scope),
	}
}

// addressKey is the key for a frontend's address alone.
func addressKey(f service.Frontend) objects.MapFrontendKey {
	return objects.MapFrontendKey{Addr: objects.Addr(f.IP), Scope: uint8(f.Scope)}
}
