// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func (c *cli) nodes(program string) *cobra.Command {
	cmd := noun[agentapi.Node]{
		use: "nodes", what: "NODE", aliases: []string{"node"},
		short: "List the nodes as this one hears them, and drain one",
		long: `List the nodes as this one hears them: whether the agent speaks and the node
itself answers, on which NICs, how many LoadBalancer addresses it answers for,
and what keeps it from having any. It needs no API server.`,
		examples: []string{"nodes", "nodes edge-2 -o wide"},
		fetch:    agentapi.Client.Nodes,
		columns: []column[agentapi.Node]{
			{"NAME", false, func(n agentapi.Node) string { return n.Name }},
			{"AGENT", false, func(n agentapi.Node) string { return n.Agent }},
			{"NODE", false, func(n agentapi.Node) string { return n.Life }},
			{"HEARD-ON", false, func(n agentapi.Node) string { return strings.Join(n.HeardOn, ",") }},
			{"MISSED-ON", true, func(n agentapi.Node) string { return strings.Join(n.MissedOn, ",") }},
			{"ADDRESSES", false, func(n agentapi.Node) string { return strconv.Itoa(len(n.Held)) }},
			{"HELD", true, func(n agentapi.Node) string { return list(n.Held) }},
			{"DRAINED", false, func(n agentapi.Node) string { return yes(n.Leaving) }},
			{"PROBLEM", false, func(n agentapi.Node) string { return n.Problem }},
		},
		named: func(n agentapi.Node, name string) bool { return n.Name == name },
	}.command(c, program)
	cmd.AddCommand(c.drainNode(program))
	return cmd
}

// drainNode is the verb drain.
func (c *cli) drainNode(program string) *cobra.Command {
	off := false
	cmd := &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Hand a node's LoadBalancer addresses to other nodes, without a lost packet",
		Long: `Hand the LoadBalancer addresses of a node, this one unless named, to other nodes,
and wait until they have them. No packet is lost: the node goes on answering until
another one does, and serves what still reaches it. It gets none again until --off,
also after a restart of its agent, but keeps those that no other node can have.
Pods stay where they are: that is kubectl's.`,
		Example: examples(program, []string{"nodes drain", "nodes drain edge-2", "nodes drain edge-2 --off"}),
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			client.Timeout = whyPatience
			result, err := client.DrainNode(cmd.Context(), agentapi.Drain{Node: strings.Join(args, ""), On: !off})
			if err != nil {
				return err
			}
			return c.tellDrained(result)
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "let the node have addresses again")
	return cmd
}

// tellDrained says what became of a drain.
func (c *cli) tellDrained(d agentapi.Drained) error {
	var err error
	switch {
	case !d.On:
		_, err = fmt.Fprintf(c.stdout, "%s may have LoadBalancer addresses again\n", d.Node)
	case len(d.Kept) == 0:
		_, err = fmt.Fprintf(c.stdout, "%s has no LoadBalancer addresses any more\n", d.Node)
	default:
		_, err = fmt.Fprintf(c.stdout, "%s keeps %s: no other node has taken them over yet\n", d.Node, list(d.Kept))
		err = errors.Join(err, errNotWell)
	}
	return err
}
