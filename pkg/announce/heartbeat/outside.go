// SPDX-License-Identifier: Apache-2.0

package heartbeat

import "time"

// outside is what machines other than nodes have to say of a NIC.
type outside struct {
	since    time.Time // somebody has been missed on the NIC
	asked    time.Time
	answered time.Time
}

// Others are asked with each tick while it matters, and for as long as it goes
// on once a second: each question is one to the whole network.
const (
	outsideOften  = 10 * time.Second
	outsideRarely = 9 * Interval // and what a tick may be off
	outsideFresh  = 3 * time.Second
)

// askOutside asks, if it is time to, and tells whether somebody has answered.
func (h *Heartbeat) askOutside(l *Link, now time.Time) bool {
	o := h.outside[l.Index]
	if o == nil {
		o = &outside{since: now}
		h.outside[l.Index] = o
	}
	often := now.Sub(o.since) < outsideOften
	if often || now.Sub(o.asked) >= outsideRarely {
		o.asked = now
		if err := h.Transport.Outside(l.Index); err != nil {
			h.Log.Debug("ask outside", "link", l.Name, "err", err)
		}
	}
	if often {
		return now.Sub(o.answered) < Silence
	}
	return now.Sub(o.answered) < outsideFresh
}
