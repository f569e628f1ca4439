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
