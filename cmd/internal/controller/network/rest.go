// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
)

// Rests measures how long freed addresses have rested by a clock that nobody
// sets; only what was before this process's time is by the records.
type Rests struct{ known map[netip.Addr]rest }

type rest struct {
	since  time.Time     // as the record says
	seen   time.Time     // first, here
	before time.Duration // that
}

// NewRests returns rests of which none is known.
func NewRests() *Rests { return &Rests{known: map[netip.Addr]rest{}} }

// Measure takes the records in, and returns what Plan asks of those that rest.
func (r *Rests) Measure(records []loadbalancer.Record, wall time.Time) func(loadbalancer.Record) time.Duration {
	next := map[netip.Addr]rest{}
	for _, record := range records {
		if record.State != loadbalancer.Cooling {
			continue
		}
		known, ok := r.known[record.Addr]
		if !ok || !known.since.Equal(record.Since) {
			known = rest{record.Since, time.Now(), max(0, wall.Sub(record.Since))}
		}
		next[record.Addr] = known
	}
	r.known = next
	return func(record loadbalancer.Record) time.Duration {
		known, ok := next[record.Addr]
		if !ok || !known.since.Equal(record.Since) {
			return 0
		}
		return known.before + time.Since(known.seen)
	}
}
