// SPDX-License-Identifier: Apache-2.0

package services

import (
	"fmt"
	"math"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// setFrontends writes the frontends that are new or differ, then deletes those
// that are gone. A frontend whose Service could not be placed stays as it is.
func (s *Services) setFrontends(p *plan) error {
	var keys []objects.MapFrontendKey
	var values []objects.MapFrontend
	for key, w := range p.frontends {
		if w.group != nil && s.tables[w.group.word] == nil {
			continue
		}
		value := s.frontendValue(w)
		if old, ok := s.frontends[key]; !ok || old != value {
			keys = append(keys, key)
			values = append(values, value)
		}
	}
	if len(keys) > 0 {
		n, err := s.maps.Frontends.BatchUpdate(keys, values, nil)
		for i := range n {
			s.frontends[keys[i]] = values[i]
		}
		if err != nil {
			return fmt.Errorf("write frontends: %w", err)
		}
	}
	return s.deleteFrontends(p)
}

func (s *Services) deleteFrontends(p *plan) error {
	var keys []objects.MapFrontendKey
	for key := range s.frontends {
		if _, ok := p.frontends[key]; !ok {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	n, err := s.maps.Frontends.BatchDelete(keys, nil)
	for _, key := range keys[:n] {
		delete(s.frontends, key)
	}
	if err != nil {
		return fmt.Errorf("delete frontends: %w", err)
	}
	return nil
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
