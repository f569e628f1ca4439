// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestTrace asks a running agent what would happen to packets.
func TestTrace(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		nodeNetwork(t)
		cfg := writeObjects(t, podObjects)
		write(t, "/etc/patchbay/config.yaml", nodeConfig)
		agentProcess(t, cfg)
		addPod(t, cfg, "server", netip.MustParseAddr("10.244.0.5"))
		addPod(t, cfg, "client", netip.MustParseAddr("10.244.0.6"))
		client := agentapi.Client{Path: cfg.Paths.AgentSocket(), Timeout: 10 * time.Second}
		tests := []struct {
			name    string
			request agentapi.TraceRequest
			kind    string
			text    string
		}{
			{"socket", agentapi.TraceRequest{From: "10.244.0.6", To: "10.96.0.20:80"}, "pod", "goes to 10.244.0.5:8080"},
			{"packets", agentapi.TraceRequest{From: "10.244.0.6", To: "10.96.0.20:80", Packets: true}, "pod", "becomes 10.244.0.6:40000 → 10.244.0.5:8080"},
			{"outside", agentapi.TraceRequest{From: "outside", To: "192.168.1.100:80"}, "pod", "10.244.0.5:8080, of 1"},
			{"node", agentapi.TraceRequest{From: "node", To: "10.244.0.5:8080"}, "pod", "10.244.0.5 on the link"},
			{"unknown port", agentapi.TraceRequest{From: "10.244.0.6", To: "10.96.0.20:81"}, "refused", "no port 81"},
			{"forged", agentapi.TraceRequest{From: "10.244.0.99", To: "10.244.0.5:8080", NIC: ""}, "dropped", "forged-source"},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				trace, err := client.Trace(t.Context(), test.request)
				if err != nil {
					t.Fatal(err)
				}
				text := traceText(trace)
				if trace.There.End.Kind != test.kind || !strings.Contains(text, test.text) {
					t.Errorf("want %s and %q, got %s:\n%s", test.kind, test.text, trace.There.End.Kind, text)
				}
			})
		}
		if _, err := client.Trace(t.Context(), agentapi.TraceRequest{From: "nobody", To: "10.96.0.20:80"}); err == nil {
			t.Error("unknown source: want an error")
		}
	})
}

func traceText(t agentapi.Trace) string {
	var b strings.Builder
	if t.Socket != nil {
		b.WriteString(t.Socket.Text + "\n")
	}
	for _, h := range t.There.Hops {
		b.WriteString(h.Program + " " + h.Packet + "\n")
		for _, s := range h.Steps {
			b.WriteString("  " + s.Topic + ": " + s.Text + "\n")
		}
	}
	return b.String() + t.There.End.Text
}
