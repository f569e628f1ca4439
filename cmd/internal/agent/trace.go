// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/monitor/events"
	"github.com/patchbay-net/patchbay/pkg/monitor/tracing"
)

// longestWait bounds how long a request for dropped packets may wait.
const longestWait = 2 * time.Second

// servePackets adds what looks closer at packets, and back at events, to the
// agent's API.
func servePackets(handler agentapi.Handler, view tracing.View, beats *heartbeat.Heartbeat, dp *datapath.Datapath, cfg config.Config, log *slog.Logger) {
	if ring, ok := log.Handler().(*events.Ring); ok {
		handler[agentapi.OpEvents] = agentapi.Do(ring.List)
	}
	t := &tracer{desk: tracing.New(tracing.Options{PinDir: cfg.Paths.BPF, Masquerade: *cfg.Masquerade.Enabled, View: view}), beats: beats}
	if cfg.Gossip.KeyFile != "" { // whom nobody vouches for learns nothing
		beats.Answer(traceKind, t.answer)
	}
	handler[agentapi.OpTrace] = agentapi.Do(t.trace)
	handler[agentapi.OpLost] = agentapi.Do(func(_ context.Context, r agentapi.LostRequest) ([]agentapi.LostPacket, error) {
		packets, err := dp.Lost(time.Now().Add(min(r.Wait, longestWait)))
		out := make([]agentapi.LostPacket, len(packets))
		for i, p := range packets {
			out[i] = agentapi.LostPacket(p)
		}
		return out, err
	})
}

const (
	// traceKind is the kind of question by which a trace goes on at another node.
	traceKind = "trace"
	// traceTime is how long that node may take to load copies of its programs.
	traceTime = 15 * time.Second
)

// tracer follows packets, as far as nodes are heard.
type tracer struct {
	desk  *tracing.Desk
	beats *heartbeat.Heartbeat
}

// trace follows a packet here, and asks the node that it is sent to.
func (t *tracer) trace(ctx context.Context, r agentapi.TraceRequest) (agentapi.Trace, error) {
	out, err := t.desk.Trace(ctx, r)
	if err == nil && out.There.End.Onward != nil {
		t.goOn(ctx, &out.There.End)
	}
	return out, err
}

// goOn asks the node at which a packet ends here.
func (t *tracer) goOn(ctx context.Context, end *agentapi.TraceEnd) {
	ctx, cancel := context.WithTimeout(ctx, traceTime)
	defer cancel()
	if end.Node = t.nodeAt(end.Hop); end.Node == "" {
		end.Unsaid = fmt.Sprintf("no agent with %s is heard", end.Hop)
		return
	}
	there, err := t.ask(ctx, end.Node, *end.Onward)
	if err != nil {
		end.Unsaid = err.Error()
		return
	}
	end.There = &there
}

// nodeAt is the node whose agent is heard and has an address.
func (t *tracer) nodeAt(addr netip.Addr) string {
	for name, p := range t.beats.View().Peers {
		if p.Agent && slices.ContainsFunc(p.State.NICs, func(n heartbeat.NIC) bool {
			return slices.ContainsFunc(n.Addrs, func(own netip.Prefix) bool { return own.Addr() == addr })
		}) {
			return name
		}
	}
	return ""
}

// traced is the answer to a question of traceKind.
type traced struct {
	Trace agentapi.Trace `json:"trace"`
	Err   string         `json:"err,omitempty"`
}

func (t *tracer) ask(ctx context.Context, node string, r agentapi.TraceRequest) (agentapi.Trace, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return agentapi.Trace{}, err
	}
	raw, err := t.beats.Ask(ctx, node, traceKind, body)
	if err != nil {
		return agentapi.Trace{}, err
	}
	var out traced
	err = json.Unmarshal(raw, &out)
	if out.Err != "" {
		err = errors.New(out.Err)
	}
	if err != nil {
		return agentapi.Trace{}, fmt.Errorf("answer of %s: %w", node, err)
	}
	return out.Trace, nil
}

// answer goes on with another node's trace. What it sends is short of what only
// that node could use.
func (t *tracer) answer(body []byte) (answer []byte) {
	out := traced{}
	defer func() {
		if wrong := recover(); wrong != nil {
			out = traced{Err: fmt.Sprintf("panic: %v", wrong)}
		}
		answer, _ = json.Marshal(out) // of strings and numbers
	}()
	var r agentapi.TraceRequest
	err := json.Unmarshal(body, &r)
	if err == nil && len(r.Frame) == 0 {
		err = errors.New("no frame to go on with")
	}
	if err == nil {
		out.Trace, err = t.desk.Trace(context.Background(), r)
	}
	if err != nil {
		out.Err = err.Error()
		return nil
	}
	for _, w := range []*agentapi.TraceWalk{&out.Trace.There, out.Trace.Back} {
		if w != nil {
			w.End.Onward = nil
		}
	}
	return nil
}
