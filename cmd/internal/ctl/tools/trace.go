// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/monitor/tracing"
)

// trace is the tool that says what would happen to a packet.
func (t *tools) trace() *cobra.Command {
	var r agentapi.TraceRequest
	var tunnel, whole string
	cmd := &cobra.Command{
		Use:   "trace FROM TO",
		Short: "Say what would happen to a packet",
		Long: `Say what would happen to a packet, step by step, by running this node's programs
on it; nothing is changed and nothing is sent. FROM is a pod (NAMESPACE/NAME or
an address), "node" for the node itself, "outside", or an address elsewhere,
with or without port. TO is ADDRESS:PORT, or NAMESPACE/NAME:PORT of a Service.
With --proto arp or nd it is who has the address TO, with --about an ICMP error,
with --frame any packet at all. What goes to another node is followed there, if
its agent is heard and the nodes share a key.
It exits with 1 if the packet would be dropped.`,
		Example: t.examples("trace default/web-1 10.96.0.10:53 --proto udp", "trace 203.0.113.9 192.0.2.10:80 --nic eth1"),
		Args: func(cmd *cobra.Command, args []string) error {
			if whole != "" {
				return cobra.MaximumNArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r.From, r.To = strings.Join(args[:min(1, len(args))], ""), strings.Join(args[min(1, len(args)):], "")
			var err error
			if r.Frame, err = hex.DecodeString(whole); err != nil {
				return fmt.Errorf("--frame: %w", err)
			}
			if tunnel != "" {
				if r.Tunnel, err = netip.ParseAddr(tunnel); err != nil {
					return fmt.Errorf("--tunnel: %w", err)
				}
			}
			client, err := t.Begin()
			if err != nil {
				return err
			}
			client.Timeout = max(client.Timeout, loadTime)
			return t.Show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				found, err := client.Trace(ctx, r)
				if errors.Is(err, agentapi.ErrUnavailable) {
					if here, errHere := traceAlone(ctx, r); errHere == nil {
						found, err = here, nil
					}
				}
				if err != nil {
					return nil, err
				}
				return t.tell(found)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.Protocol, "proto", "p", "tcp", "tcp, udp, sctp, icmp, arp or nd")
	f.StringVar(&whole, "frame", "", "all of it, in hex, from the Ethernet header on; only FROM may be given then")
	f.StringSliceVar(&r.About, "about", nil, "ADDRESS:PORT,ADDRESS:PORT: it is an ICMP error about a packet between these")
	f.StringSliceVar(&r.Flags, "flags", nil, "TCP's flags: syn, ack, fin, rst, psh (default syn)")
	f.StringVar(&r.NIC, "nic", "", "the NIC that it comes in by, from elsewhere")
	f.StringVar(&tunnel, "tunnel", "", "the node that it comes through the tunnel from")
	f.StringVar(&r.MAC, "mac", "", "its source MAC")
	f.Uint16Var(&r.SourcePort, "source-port", 0, "its source port (default 40000)")
	f.Uint8Var(&r.TTL, "ttl", 0, "its hop limit (default 64)")
	f.IntVar(&r.Length, "length", 0, "bytes after its headers")
	f.BoolVar(&r.NoFragment, "df", false, "it may not be fragmented")
	f.BoolVar(&r.Packets, "packets", false, "past the sockets' programs, as what calls no connect() sends")
	return cmd
}

// loadTime is how long the agent may take to load copies of its programs, on a
// slow machine.
const loadTime = 30 * time.Second

// traceAlone traces without the agent, on what it has left in force.
func traceAlone(ctx context.Context, r agentapi.TraceRequest) (agentapi.Trace, error) {
	cfg, err := config.Load(config.DefaultPath)
	if err != nil {
		if cfg, err = config.Parse(nil); err != nil {
			return agentapi.Trace{}, err
		}
	}
	view, err := tracing.Alone(cfg.Paths.BPF)
	if err != nil {
		return agentapi.Trace{}, err
	}
	out, err := tracing.New(tracing.Options{PinDir: cfg.Paths.BPF, Masquerade: *cfg.Masquerade.Enabled, View: view}).Trace(ctx, r)
	out.Notes = append(out.Notes, "the agent doesn't answer: this is what it has left in force")
	return out, err
}

// tell prints a trace; one that ends in a drop isn't well.
func (t *tools) tell(found agentapi.Trace) ([]byte, error) {
	var text bytes.Buffer
	done, err := t.Encode(&text, found)
	if err != nil {
		return nil, err
	}
	if !done {
		tellTrace(&text, found)
	}
	if lost(found) {
		return text.Bytes(), output.ErrNotWell
	}
	return text.Bytes(), nil
}

// lost tells whether a packet, or the answer to it, is dropped on its way.
func lost(t agentapi.Trace) bool {
	kind := t.There.End.Kind
	return kind == "dropped" || kind == "refused" || t.Back != nil && t.Back.End.Kind == "dropped" ||
		t.There.End.There != nil && lost(*t.There.End.There)
}

func tellTrace(text *bytes.Buffer, t agentapi.Trace) {
	if t.Socket != nil {
		fmt.Fprintf(text, "socket      %s\n", t.Socket.Text)
	}
	fmt.Fprintf(text, "packet      %s\n", t.Packet)
	for _, n := range t.Notes {
		fmt.Fprintf(text, "note        %s\n", n)
	}
	tellWalk(text, t.There)
	away := t.There.End.There
	if away != nil {
		tellAway(text, t.There.End.Node, *away)
	}
	if t.Back != nil {
		here := ""
		if away != nil {
			here = ", back here"
		}
		fmt.Fprintf(text, "\nand its answer%s\n", here)
		tellWalk(text, *t.Back)
	}
}

// tellAway tells how a packet goes on at another node, and its answer there.
func tellAway(text *bytes.Buffer, node string, t agentapi.Trace) {
	fmt.Fprintf(text, "\non node %s\n", node)
	for _, n := range t.Notes {
		fmt.Fprintf(text, "note        %s\n", n)
	}
	tellWalk(text, t.There)
	if t.Back != nil {
		fmt.Fprintf(text, "\nand its answer, on node %s\n", node)
		tellWalk(text, *t.Back)
	}
}

func tellWalk(text *bytes.Buffer, w agentapi.TraceWalk) {
	for _, h := range w.Hops {
		where := "the node's stack"
		if h.Program != "" {
			where = h.Program + " at " + h.Device
		}
		fmt.Fprintf(text, "\n%s: %s\n", where, h.Packet)
		width := 0
		for _, s := range h.Steps {
			width = max(width, len(s.Topic))
		}
		for _, s := range h.Steps {
			fmt.Fprintf(text, "  %s%s  %s\n", s.Topic, strings.Repeat(" ", width-len(s.Topic)), s.Text)
		}
	}
	fmt.Fprintf(text, "\n→ %s\n", w.End.Text)
	if w.End.Unsaid != "" {
		fmt.Fprintf(text, "  the node there says nothing: %s\n", w.End.Unsaid)
	}
	if w.End.Next != "" && w.End.There == nil {
		fmt.Fprintf(text, "  goes on there: %s\n", w.End.Next)
	}
}
