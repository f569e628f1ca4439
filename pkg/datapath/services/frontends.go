// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// writeFrontends writes the frontends that are new or differ. One whose Service
// or source ranges could not be placed stays as it is.
func (s *Services) writeFrontends(p *plan) error {
	var keys []objects.MapFrontendKey
	for key, w := range p.frontends {
		if w.group != nil && s.tables[w.group.word] == nil {
			continue
		}
		if s.unguarded(w.entry) {
			s.users[w.group.word] += 0 // its word may have no other frontend
			continue
		}
		if old, ok := s.frontends[key]; !ok || old != s.frontendValue(w) {
			keys = append(keys, key)
		}
	}
	// Those that are there need no room. The others in an order of their own, so
	// that the same ones are refused whenever there is none.
	slices.SortFunc(keys, func(a, b objects.MapFrontendKey) int {
		return cmp.Or(s.rank(a, p)-s.rank(b, p), compareKeys(a, b))
	})
	var values []objects.MapFrontend
	for _, key := range keys {
		values = append(values, s.frontendValue(p.frontends[key]))
	}
	return s.putFrontends(p, keys, values)
}

func (s *Services) rank(key objects.MapFrontendKey, p *plan) int {
	if _, ok := s.frontends[key]; ok {
		return 0
	}
	if p.frontends[key].entry != nil {
		return 1
	}
	return 2 // an address alone: without it, its other ports are silent
}

// putFrontends writes frontends. One that there is no room for is left out.
func (s *Services) putFrontends(p *plan, keys []objects.MapFrontendKey, values []objects.MapFrontend) error {
	var errs []error
	for len(keys) > 0 {
		n, err := s.maps.Frontends.BatchUpdate(keys, values, nil)
		for i := range n {
			s.forget(keys[i])
			s.note(keys[i], values[i])
		}
		if err == nil {
			break
		}
		if n >= len(keys) || !errors.Is(err, unix.E2BIG) {
			return errors.Join(append(errs, fmt.Errorf("write frontends: %w", err))...)
		}
		// A word that was made for a frontend that isn't there has no users.
		s.users[values[n].Service] += 0
		at := netip.AddrPortFrom(keys[n].Addr.Netip(), objects.Port(keys[n].Port))
		errs = append(errs, &Refused{p.frontends[keys[n]].port, fmt.Errorf("frontend %s: %w", at, indexes.ErrFull)})
		keys, values = keys[n+1:], values[n+1:]
	}
	return errors.Join(errs...)
}

// deleteFrontends deletes those of had that are not wanted any more.
func (s *Services) deleteFrontends(p *plan, had []objects.MapFrontendKey) error {
	var keys []objects.MapFrontendKey
	for _, key := range had {
		_, there := s.frontends[key]
		_, wanted := p.frontends[key]
		if there && !wanted && s.addresses[key] == 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	keys = slices.Compact(keys)
	if len(keys) == 0 {
		return nil
	}
	n, err := s.maps.Frontends.BatchDelete(keys, nil)
	for _, key := range keys[:n] {
		s.forget(key)
	}
	if err != nil {
		return fmt.Errorf("delete frontends: %w", err)
	}
	return nil
}

// note remembers what a frontend says now, and forget that it is gone.
func (s *Services) note(key objects.MapFrontendKey, value objects.MapFrontend) {
	s.frontends[key] = value
	s.users[value.Service]++
	s.readers[value.Ranges]++
}

func (s *Services) forget(key objects.MapFrontendKey) {
	if old, ok := s.frontends[key]; ok {
		s.users[old.Service]--
		s.readers[old.Ranges]--
		delete(s.frontends, key)
	}
}

func compareKeys(a, b objects.MapFrontendKey) int {
	return cmp.Or(bytes.Compare(a.Addr.B[:], b.Addr.B[:]), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Scope, b.Scope))
}

func (s *Services) frontendValue(w wanted) objects.MapFrontend {
	if w.group == nil {
		return objects.MapFrontend{Flags: uint16(objects.MapFrontendFlagsFE_ADDRESS)}
	}
	e := w.entry
	v := objects.MapFrontend{
		Service:  w.group.word,
		Affinity: seconds(e.Affinity),
		Ranges:   s.sources[sourcesText(e.SourceRanges)],
		NicRoles: uint8(e.NodePortRoles),
	}
	if e.SocketLB && len(e.Backends) > 0 {
		v.Flags |= uint16(objects.MapFrontendFlagsFE_SOCKET)
	}
	if e.PerPacket {
		v.Flags |= uint16(objects.MapFrontendFlagsFE_PACKET)
	}
	if e.Empty == service.Reject {
		v.Flags |= uint16(objects.MapFrontendFlagsFE_REJECT)
	}
	if e.Kind == service.NodePort {
		v.Flags |= uint16(objects.MapFrontendFlagsFE_NODEPORT)
	}
	return v
}

// seconds rounds up, so that a short affinity isn't none.
func seconds(d time.Duration) uint32 {
	return uint32(min((d+time.Second-1)/time.Second, math.MaxUint32))
}
