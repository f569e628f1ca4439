// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/monitor/tracing"
)

// serveTraces adds what looks closer at packets to the agent's API.
func serveTraces(handler agentapi.Handler, view tracing.View, cfg config.Config) {
	desk := tracing.New(tracing.Options{PinDir: cfg.Paths.BPF, Masquerade: *cfg.Masquerade.Enabled, View: view})
	handler[agentapi.OpTrace] = agentapi.Do(desk.Trace)
}
