// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// writeFrontends writes the frontends that are new or differ. One whose Service
// or source ranges could not be placed stays as it is.
func (s *Services) writeFrontends(p *plan) error {
	var keys []objects.MapFrontendKey
	var values []objects.MapFrontend
	for key, w := range p.frontends {
		if w.group != nil && s.tables[w.group.word] == nil {
			continue
		}
		if s.unguarded(w.entry) {
			s.users[w.group.word] += 0 // its word may have no other frontend
			continue
		}
		value := s.frontendValue(w)
		if old, ok := s.frontends[key]; !ok || old != value {
			keys = append(keys, key)
			values = append(values, value)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	n, err := s.maps.Frontends.BatchUpdate(keys, values, nil)
	for i := range n {
		s.forget(keys[i])
		s.note(keys[i], values[i])
	}
	// A word that was made for a frontend that isn't there has no users.
	for i := n; i < len(keys); i++ {
		s.users[values[i].Service] += 0
	}
	if err != nil {
		return fmt.Errorf("write frontends: %w", err)
	}
	return nil
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
