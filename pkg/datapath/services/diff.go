// SPDX-License-Identifier: Apache-2.0

package services

import (
	"slices"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// change is what one Set is about: the entries of the Service ports of which
// anything differs from what was set last, and the frontends that these had.
type change struct {
	entries, old []service.Entry
	had          []objects.MapFrontendKey
}

// diff compares with what was set last, so that one endpoint's change costs
// little among 10,000 Services. After a restart or an error all is compared
// with the maps.
func (s *Services) diff(entries []service.Entry) change {
	if s.entries == nil {
		c := change{entries: entries}
		clear(s.addresses)
		for key := range s.frontends {
			c.had = append(c.had, key)
		}
		return c
	}
	ports := changedPorts(s.entries, entries)
	var c change
	for i := range s.entries {
		if e := &s.entries[i]; ports[e.Port] {
			c.old = append(c.old, *e)
			c.had = append(c.had, frontendKey(e.Frontend))
			if hasAddress(e) {
				c.had = append(c.had, addressKey(e.Frontend))
			}
		}
	}
	for i := range entries {
		if ports[entries[i].Port] {
			c.entries = append(c.entries, entries[i])
		}
	}
	return c
}

// changedPorts walks two lists that are sorted by frontend. On lists that are
// not, it names too many ports, never too few.
func changedPorts(old, new []service.Entry) map[service.PortName]bool {
	ports := map[service.PortName]bool{}
	for len(old) > 0 && len(new) > 0 {
		switch a, b := &old[0], &new[0]; {
		case a.Frontend == b.Frontend:
			if !same(a, b) {
				ports[a.Port], ports[b.Port] = true, true
			}
			old, new = old[1:], new[1:]
		case before(a, b):
			ports[a.Port] = true
			old = old[1:]
		default:
			ports[b.Port] = true
			new = new[1:]
		}
	}
	for _, rest := range [][]service.Entry{old, new} {
		for i := range rest {
			ports[rest[i].Port] = true
		}
	}
	return ports
}

func before(a, b *service.Entry) bool {
	if c := a.Frontend.IP.Compare(b.Frontend.IP); c != 0 {
		return c < 0
	}
	if a.Frontend.Port != b.Frontend.Port {
		return a.Frontend.Port < b.Frontend.Port
	}
	if a.Frontend.Protocol != b.Frontend.Protocol {
		return a.Frontend.Protocol < b.Frontend.Protocol
	}
	return a.Frontend.Scope < b.Frontend.Scope
}

// same tells whether two entries of one frontend mean the same.
func same(a, b *service.Entry) bool {
	return a.Port == b.Port && a.Kind == b.Kind && a.Empty == b.Empty && a.Affinity == b.Affinity &&
		a.Consistent == b.Consistent && a.SocketLB == b.SocketLB && a.PerPacket == b.PerPacket && a.NodePortRoles == b.NodePortRoles &&
		slices.Equal(a.SourceRanges, b.SourceRanges) && slices.Equal(a.Backends, b.Backends) &&
		slices.Equal(a.Serving, b.Serving)
}

// hasAddress tells whether an entry's address is a Service's alone. A node's
// own address, which has other ports too, isn't.
func hasAddress(e *service.Entry) bool { return e.Kind != service.NodePort }

// count notes how many entries have an address.
func (s *Services) count(entries []service.Entry, by int) {
	for i := range entries {
		if e := &entries[i]; hasAddress(e) {
			key := addressKey(e.Frontend)
			if s.addresses[key] += by; s.addresses[key] == 0 {
				delete(s.addresses, key)
			}
		}
	}
}
