// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/monitor/events"
	"github.com/patchbay-net/patchbay/pkg/monitor/tracing"
)

// longestWait bounds how long a request for dropped packets may wait.
const longestWait = 2 * time.Second

// servePackets adds what looks closer at packets, and back at events, to the
// agent's API.
func servePackets(handler agentapi.Handler, view tracing.View, dp *datapath.Datapath, cfg config.Config, log *slog.Logger) {
	if ring, ok := log.Handler().(*events.Ring); ok {
		handler[agentapi.OpEvents] = agentapi.Do(ring.List)
	}
	desk := tracing.New(tracing.Options{PinDir: cfg.Paths.BPF, Masquerade: *cfg.Masquerade.Enabled, View: view})
	handler[agentapi.OpTrace] = agentapi.Do(desk.Trace)
	handler[agentapi.OpLost] = agentapi.Do(func(_ context.Context, r agentapi.LostRequest) ([]agentapi.LostPacket, error) {
		packets, err := dp.Lost(time.Now().Add(min(r.Wait, longestWait)))
		out := make([]agentapi.LostPacket, len(packets))
		for i, p := range packets {
			out[i] = agentapi.LostPacket(p)
		}
		return out, err
	})
}
