// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// guard returns a Service without the externalIPs that it may not have, and
// which those are. Whoever may write Services must not be able to take traffic
// to another Service, to a LoadBalancer address or to a node (CVE-2020-8554);
// what is outside of the cluster is for an admission rule to guard.
func (s *Services) guard(svc service.Service) (service.Service, error) {
	if len(svc.ExternalIPs) == 0 {
		return svc, nil
	}
	var errs []error
	own := svc.ExternalIPs
	svc.ExternalIPs = nil
	for _, ip := range own {
		if err := s.refuseExternal(ip); err != nil {
			errs = append(errs, fmt.Errorf("externalIPs: %s %w", ip, err))
			continue
		}
		svc.ExternalIPs = append(svc.ExternalIPs, ip)
	}
	return svc, errors.Join(errs...)
}

func (s *Services) refuseExternal(ip netip.Addr) error {
	if slices.ContainsFunc(s.serviceCIDRs, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return errors.New("is in a range of Services")
	}
	if s.isNode(ip) {
		return errors.New("is a node's")
	}
	for name, pool := range s.pools {
		for _, part := range pool.parts {
			if part.Contains(ip) {
				return fmt.Errorf("is in pool %s of LoadBalancer addresses", name)
			}
		}
	}
	return nil
}

// guardAgain has the Services with externalIPs guarded anew, after nodes or
// pools changed.
func (s *Services) guardAgain() {
	for name, record := range s.services {
		if len(record.value.ExternalIPs) > 0 {
			s.changed[name] = struct{}{}
		}
	}
}
