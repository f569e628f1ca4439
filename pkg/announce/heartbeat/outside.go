// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"maps"
	"math/bits"
	"time"
)

// outside is what machines other than nodes have to say of a NIC.
type outside struct {
	since    time.Time // somebody has been missed on the NIC
	asked    time.Time
	answered map[[6]byte]time.Time
}

// Others are asked with each tick while it matters, and for as long as it goes
// on once a second: each question is one to the whole network.
const (
	outsideOften  = 10 * time.Second
	outsideRarely = 9 * Interval // and what a tick may be off
	outsideFresh  = 3 * time.Second
	outsideMax    = 64 // machines that are counted
)

// askOutside asks, if it is time to, and tells how many have answered.
func (h *Heartbeat) askOutside(l *Link, now time.Time) Outside {
	o := h.outside[l.Index]
	if o == nil {
		o = &outside{since: now, answered: map[[6]byte]time.Time{}}
		h.outside[l.Index] = o
	}
	often, fresh := now.Sub(o.since) < outsideOften, outsideFresh
	if often {
		fresh = Silence
	}
	if often || now.Sub(o.asked) >= outsideRarely {
		o.asked = now
		if err := h.Transport.Outside(l.Index); err != nil {
			h.Log.Debug("ask outside", "link", l.Name, "err", err)
		}
	}
	maps.DeleteFunc(o.answered, func(_ [6]byte, at time.Time) bool { return now.Sub(at) >= fresh })
	return Outside(bits.Len(uint(len(o.answered))))
}

// hear notes that a machine has answered.
func (o *outside) hear(mac [6]byte, now time.Time) {
	if _, known := o.answered[mac]; known || len(o.answered) < outsideMax {
		o.answered[mac] = now
	}
}
