// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

type poolRecord struct {
	parts []ipam.Pool
	err   error
}

func (s *Services) applyPool(ev source.Event) {
	name := ev.Key.Name
	_, had := s.pools[name]
	switch ev.Op {
	case source.Synced:
		return
	case source.Delete:
		delete(s.pools, name)
	case source.Upsert:
		obj, ok := ev.Object.(*v1alpha1.IPPool)
		if !ok || obj.Spec.Use != v1alpha1.UseLoadBalancer {
			delete(s.pools, name)
			break
		}
		parts, err := poolParts(obj)
		s.pools[name] = poolRecord{parts, err}
	}
	if _, has := s.pools[name]; has || had {
		s.guardAgain()
		s.judgeAgain()
	}
}

func (s *Services) applyNode(ev source.Event) {
	before := s.nodes[ev.Key.Name].value.addrs()
	s.putNode(ev)
	if slices.Equal(before, s.nodes[ev.Key.Name].value.addrs()) {
		return
	}
	s.guardAgain()
	if len(s.pools) > 0 {
		s.judgeAgain()
	}
}

// judgeAgain converts all slices anew, after what endpoints may not have
// changed.
func (s *Services) judgeAgain() {
	for key, record := range s.slices {
		s.slices[key] = s.convertSlice(record.obj)
		s.forget(record.service)
	}
}

// rangesFor returns what a Service's endpoints may not have. The API server's
// own may be in a pool: if they were refused by a pool drawn too wide, nothing
// would be left to correct it with.
func (s *Services) rangesFor(name service.Name) Ranges {
	r := Ranges{Service: s.serviceCIDRs}
	if len(s.pools) == 0 || name == (service.Name{Namespace: "default", Name: "kubernetes"}) {
		return r
	}
	for _, pool := range s.pools {
		r.LoadBalancer = append(r.LoadBalancer, pool.parts...)
	}
	r.IsNode = s.isNode
	return r
}

func (s *Services) isNode(addr netip.Addr) bool {
	for _, record := range s.nodes {
		if slices.Contains(record.value.addrs(), addr) {
			return true
		}
	}
	return false
}
