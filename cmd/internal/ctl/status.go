// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func (c *cli) status(program string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the agent of this node fares",
		Long: `Show how the agent of this node fares: whether it is ready, what it works from,
how much it keeps, and which objects it could not use. It exits with 1 if the
agent is not ready.`,
		Example: examples(program, []string{"status", "status -o json"}),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			return c.show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				info, err := client.Info(ctx)
				if err != nil {
					return nil, err
				}
				return c.describe(info)
			})
		},
	}
}

func (c *cli) describe(info agentapi.Info) ([]byte, error) {
	var text bytes.Buffer
	var err error
	switch c.output {
	case "json", "yaml":
		err = encode(&text, c.output, info)
	default:
		err = c.describeText(&text, info)
	}
	if err == nil && !info.Ready {
		err = errNotWell
	}
	return text.Bytes(), err
}

func (c *cli) describeText(text *bytes.Buffer, info agentapi.Info) error {
	tw := tabwriter.NewWriter(text, 0, 0, 3, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(tw, name+"\t"+format+"\n", args...) }
	line("Node", "%s (%s)", info.Node, info.Role)
	line("Ready", "%s", ready(info))
	line("Version", "%s, maps of schema %d", info.Version, info.Schema)
	line("Running for", "%s", c.age(info.Started))
	line("Source", "%s (%s)", info.Source, synced(info.Synced))
	line("Routing", "%s", or(info.Routing, "-"))
	line("Pod ranges", "%s", or(list(info.PodCIDRs), "-"))
	n := info.Counts
	line("Keeps", "%d pods, %d Services, %d frontends, %d backends, %d nodes, %d addresses announced",
		n.Pods, n.Services, n.Frontends, n.Backends, n.Nodes, n.Announced)
	if c.output == "wide" {
		line("Boot", "%s", info.BootID)
	}
	for i, p := range info.Problems {
		name := ""
		if i == 0 {
			name = "Problems"
		}
		line(name, "%s: %s (for %s)", p.Object, p.Text, c.age(p.Since))
	}
	return tw.Flush()
}

func ready(info agentapi.Info) string {
	if info.Ready {
		return "yes"
	}
	return "no: " + or(info.Reason, "no reason given")
}

func synced(ok bool) string {
	if ok {
		return "read"
	}
	return "not read yet: what is in force is the last known"
}
