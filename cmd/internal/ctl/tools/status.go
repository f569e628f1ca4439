// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func (t *tools) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the agent of this node fares",
		Long: `Show how the agent of this node fares: whether it is ready, what it works from,
how much it keeps, and which objects it could not use. It exits with 1 if the
agent is not ready.`,
		Example: t.examples("status", "status -o json"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.Begin()
			if err != nil {
				return err
			}
			return t.Show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				info, err := client.Info(ctx)
				if err != nil {
					return nil, err
				}
				n := node{Info: info}
				n.NICs, _ = client.NICs(ctx) // what can't be had isn't shown
				n.Drops, _ = Drops(client, ctx)
				return t.describe(n)
			})
		},
	}
}

// node is a node in short.
type node struct {
	agentapi.Info
	NICs  []agentapi.NIC  `json:"nics,omitempty"`
	Drops []agentapi.Drop `json:"drops,omitempty"`
}

func (t *tools) describe(n node) ([]byte, error) {
	var text bytes.Buffer
	done, err := t.Encode(&text, n)
	if !done {
		err = t.describeText(&text, n)
	}
	if err == nil && !n.Ready {
		err = output.ErrNotWell
	}
	return text.Bytes(), err
}

func (t *tools) describeText(text *bytes.Buffer, of node) error {
	info := of.Info
	tw := tabwriter.NewWriter(text, 0, 0, 3, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(tw, name+"\t"+format+"\n", args...) }
	line("Node", "%s (%s)", info.Node, info.Role)
	line("Ready", "%s", ready(info))
	line("Version", "%s, maps of schema %d", info.Version, info.Schema)
	line("Running for", "%s", output.Age(t.Now(), info.Started))
	line("Source", "%s (%s)", info.Source, synced(info.Synced))
	line("Routing", "%s", cmp.Or(info.Routing, "-"))
	line("Pod ranges", "%s", cmp.Or(output.List(info.PodCIDRs), "-"))
	n := info.Counts
	line("Keeps", "%d pods, %d Services, %d frontends, %d backends, %d nodes, %d addresses announced",
		n.Pods, n.Services, n.Frontends, n.Backends, n.Nodes, n.Announced)
	for i, nic := range of.NICs {
		line(once("NICs", i), "%s", nicText(nic))
	}
	if len(of.Drops) > 0 {
		line("Dropped", "%s", dropText(of.Drops))
	}
	if t.Wide() {
		line("Boot", "%s", info.BootID)
	}
	for i, p := range info.Problems {
		line(once("Problems", i), "%s: %s (for %s)", p.Object, p.Text, output.Age(t.Now(), p.Since))
	}
	return tw.Flush()
}

// once is the name of a list's first line.
func once(name string, i int) string {
	if i > 0 {
		return ""
	}
	return name
}

func nicText(n agentapi.NIC) string {
	text := n.Name + " " + n.Role
	if !n.Carrier {
		text += ", no carrier"
	}
	if len(n.Addrs) > 0 {
		text += ", " + output.List(n.Addrs)
	}
	return text
}

// dropText tells how many packets were dropped, and the most frequent reasons.
func dropText(drops []agentapi.Drop) string {
	const shown = 3
	total, text := uint64(0), ""
	for i, d := range drops {
		total += d.Packets
		if i < shown {
			text += fmt.Sprintf(", %s %d", d.Reason, d.Packets)
		}
	}
	return fmt.Sprintf("%d packets%s", total, text)
}

func ready(info agentapi.Info) string {
	if info.Ready {
		return "yes"
	}
	return "no: " + cmp.Or(info.Reason, "no reason given")
}

func synced(ok bool) string {
	if ok {
		return "read"
	}
	return "not read yet: what is in force is the last known"
}

// Drops are the reasons of dropped packets, the most frequent first.
func Drops(client agentapi.Client, ctx context.Context) ([]agentapi.Drop, error) {
	drops, err := client.Drops(ctx)
	slices.SortFunc(drops, func(a, b agentapi.Drop) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Reason, b.Reason))
	})
	return drops, err
}
