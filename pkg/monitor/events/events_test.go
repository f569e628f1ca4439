// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func TestRing(t *testing.T) {
	var out bytes.Buffer
	ring := New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	log := slog.New(ring)
	log.Debug("not kept")
	log.Info("started", "node", "a")
	log.With("pod", "web").WithGroup("g").Error("failed", "err", errors.New("no"))
	got, err := ring.List(t.Context(), agentapi.EventsAfter{})
	if err != nil || len(got) != 2 || got[0].Text != "started" || got[0].Details != "node=a" || got[1].Details != "pod=web g.err=no" || got[1].Level != "ERROR" {
		t.Errorf("got %+v, %v", got, err)
	}
	if strings.Contains(out.String(), "started") || !strings.Contains(out.String(), "failed") {
		t.Errorf("handed on: %s", out.String())
	}
	for range 3 * room {
		log.Info("more")
	}
	if got, _ := ring.List(t.Context(), agentapi.EventsAfter{}); len(got) != room || got[room-1].Number != 3*room+2 {
		t.Errorf("kept %d events, the last is %d", len(got), got[len(got)-1].Number)
	}
	if got, _ := ring.List(t.Context(), agentapi.EventsAfter{Number: 3*room + 1}); len(got) != 1 {
		t.Errorf("after the last but one: %d", len(got))
	}
}
