// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"time"
)

// OpEvents lists what has happened lately: EventsAfter → []Event.
const OpEvents Op = "events"

// EventsAfter says from which event on; zero: all that are kept.
type EventsAfter struct {
	Number uint64 `json:"number"`
}

// Event is something that the agent did or noticed.
type Event struct {
	Number  uint64    `json:"number"`
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // INFO, WARN or ERROR
	Text    string    `json:"text"`
	Details string    `json:"details,omitempty"`
}

// Events lists the events after a number.
func (c Client) Events(ctx context.Context, after uint64) ([]Event, error) {
	var out []Event
	err := c.call(ctx, OpEvents, EventsAfter{after}, &out)
	return out, err
}

// OpLost waits for packets that are dropped: LostRequest → []LostPacket.
const OpLost Op = "drops.packets"

// LostRequest says how long to wait for the first. While somebody asks again
// within three seconds, none is missed.
type LostRequest struct {
	Wait time.Duration `json:"wait"` // at most two seconds
}

// LostPacket is a packet that the programs have dropped.
type LostPacket struct {
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	Program  string    `json:"program"`
	Link     int       `json:"link"` // index of the device
	Length   int       `json:"length"`
	Answered bool      `json:"answered"` // its sender was told
	Data     []byte    `json:"data"`     // its first bytes, as it came
}

// Lost waits for dropped packets.
func (c Client) Lost(ctx context.Context, wait time.Duration) ([]LostPacket, error) {
	var out []LostPacket
	err := c.call(ctx, OpLost, LostRequest{Wait: wait}, &out)
	return out, err
}
