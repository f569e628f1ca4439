// SPDX-License-Identifier: Apache-2.0

// Package convert turns Kubernetes' objects into the values that the pure
// packages compute with. What can't be used is refused piece by piece (one
// address, one endpoint), reported as a Problem that names the object, and the
// rest goes on. Nothing is decided here that kube-proxy decides later:
// source/convert says what the objects mean, pkg/service what follows.
package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Problem is what was refused of one object.
type Problem struct {
	Kind source.Kind
	Key  source.Key
	Err  error
}

// String returns "Kind namespace/name: what is wrong".
func (p Problem) String() string { return fmt.Sprintf("%s %s: %v", p.Kind, p.Key, p.Err) }

// parseAddr reads an address, whitespace allowed around it. A v4-mapped one is
// refused: written that way it means two things.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	if addr.Is4In6() || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not a plain address", s)
	}
	return addr, nil
}

// parseAddrs reads the addresses that it can.
func parseAddrs(field string, list []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var errs []error
	for _, s := range list {
		addr, err := parseAddr(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs, errors.Join(errs...)
}

// parsePort reads a port number, of which 0 is none.
func parsePort(n int32) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %d is not between 1 and 65535", n)
	}
	return uint16(n), nil
}
