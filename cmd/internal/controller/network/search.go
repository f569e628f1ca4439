// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// patience is how long a search may take before an address is given without:
// longer than several nodes in turn take. If one says that it searches, it is
// waited for so many times longer: after many conflicts it may search but once a
// minute.
const (
	patience = 40 * time.Second
	longer   = 30
)

// Searches follows the searches that the agents make for reserved addresses.
type Searches struct {
	// Patience is how long is waited for an agent; New sets it.
	Patience time.Duration
	waits    map[netip.Addr]wait
	late     map[netip.Addr]bool
}

// wait is for the search that began then.
type wait struct {
	search time.Time
	since  time.Time // by the clock of this process, which nobody sets
}

// NewSearches returns searches of which none is known.
func NewSearches() *Searches {
	return &Searches{Patience: patience, waits: map[netip.Addr]wait{}}
}

// Finder returns what Plan asks, by the reports as they are.
func (s *Searches) Finder(v View, records []loadbalancer.Record) func(loadbalancer.Record) loadbalancer.Finding {
	s.settle(records)
	return func(r loadbalancer.Record) loadbalancer.Finding {
		if found := v.find(r.Addr, r.Since); found != nil {
			if found.Result == v1alpha1.ProbeConflict {
				return loadbalancer.Finding{Search: loadbalancer.Occupied, By: by(found.MAC, found.node)}
			}
			return loadbalancer.Finding{Search: loadbalancer.Free}
		}
		if r.State == loadbalancer.Conflicted {
			return loadbalancer.Finding{Search: loadbalancer.Occupied}
		}
		if _, maybe := v.Reaches(r.Addr); !maybe {
			return loadbalancer.Finding{Search: loadbalancer.Impossible}
		}
		w := s.waits[r.Addr]
		if !w.search.Equal(r.Since) {
			w = wait{r.Since, time.Now()}
			s.waits[r.Addr] = w
		}
		limit := s.Patience
		if v.searching(r.Addr, r.Since) {
			limit *= longer
		}
		if time.Since(w.since) >= limit {
			s.late[r.Addr] = true
			return loadbalancer.Finding{Search: loadbalancer.Impossible}
		}
		return loadbalancer.Finding{Search: loadbalancer.Searching}
	}
}

// settle forgets what isn't searched for any more.
func (s *Searches) settle(records []loadbalancer.Record) {
	s.late = map[netip.Addr]bool{}
	still := map[netip.Addr]bool{}
	for _, r := range records {
		still[r.Addr] = r.State == loadbalancer.Reserved
	}
	for addr := range s.waits {
		if !still[addr] {
			delete(s.waits, addr)
		}
	}
}

// Late tells whether an address was given because no agent searched in time.
func (s *Searches) Late(addr netip.Addr) bool { return s.late[addr] }
