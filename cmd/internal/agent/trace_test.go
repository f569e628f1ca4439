// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/monitor/tracing"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestTrace asks a running agent what would happen to packets.
func TestTrace(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		nodeNetwork(t)
		cfg := writeObjects(t, podObjects)
		write(t, "/etc/patchbay/config.yaml", nodeConfig)
		agent := agentProcess(t, cfg)
		addPod(t, cfg, "server", netip.MustParseAddr("10.244.0.5"))
		pod := addPod(t, cfg, "client", netip.MustParseAddr("10.244.0.6"))
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
			{"ARP of a pod for its gateway", agentapi.TraceRequest{From: "10.244.0.6", To: "169.254.1.1", Protocol: "arp"}, "node", "ARP: who has 169.254.1.1? says 10.244.0.6"},
			{"ARP for a LoadBalancer address", agentapi.TraceRequest{From: "outside", To: "192.168.1.100", Protocol: "arp"}, "answered", "ARP: 192.168.1.100 is at"},
			{"ICMP error", agentapi.TraceRequest{From: "outside", To: "10.244.0.6", About: []string{"10.244.0.6:999", "203.0.113.1:80"}}, "dropped", "(unreachable)"},
			{"frame", agentapi.TraceRequest{Frame: trace.Solicit([6]byte{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("192.168.1.50"), netip.MustParseAddr("192.168.1.100"))}, "answered", "ARP: 192.168.1.100 is at"},
			{"forged", agentapi.TraceRequest{From: "10.244.0.99", To: "10.244.0.5:8080", NIC: ""}, "dropped", "forged-source"},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				got, err := client.Trace(t.Context(), test.request)
				if err != nil {
					t.Fatal(err)
				}
				text := traceText(got)
				if got.There.End.Kind != test.kind || !strings.Contains(text, test.text) {
					t.Errorf("want %s and %q, got %s:\n%s", test.kind, test.text, got.There.End.Kind, text)
				}
			})
		}
		if _, err := client.Trace(t.Context(), agentapi.TraceRequest{From: "nobody", To: "10.96.0.20:80"}); err == nil {
			t.Error("unknown source: want an error")
		}
		testLost(t, client, pod.Namespace)

		kill(agent)
		view, err := tracing.Alone(cfg.Paths.BPF)
		if err != nil {
			t.Fatal(err)
		}
		desk := tracing.New(tracing.Options{PinDir: cfg.Paths.BPF, View: view})
		for _, r := range []agentapi.TraceRequest{{From: "10.244.0.6", To: "10.96.0.20:80"}, {From: "outside", To: "192.168.1.100:80"}} {
			got, err := desk.Trace(t.Context(), r)
			if err != nil || got.There.End.Kind != "pod" || got.Back == nil {
				t.Errorf("without the agent: %v: %s", err, traceText(got))
			}
		}
	})
}

// testLost has a pod ask an address in the Service range that no Service has,
// and the agent show the packet.
func testLost(t *testing.T, client agentapi.Client, pod *netlab.Namespace) {
	t.Helper()
	if _, err := client.Lost(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	err := pod.Do(func() error {
		conn, err := net.Dial("udp", "10.96.99.99:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("anybody?"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, 5*time.Second, "the dropped packet", func() error {
		lost, err := client.Lost(t.Context(), time.Second)
		for _, p := range lost {
			if p.Reason == "no-service" && p.Program == "tc_pod_in" && strings.HasSuffix(string(p.Data), "anybody?") {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("got %+v", lost))
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
