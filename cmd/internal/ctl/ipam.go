// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// ipam is the noun of the node's address blocks.
func (c *cli) ipam(program string) *cobra.Command {
	cmd := c.ipamBlocks(program, "ipam", []string{"ipam", "ipam 10.244.0.7 -o wide"})
	cmd.AddCommand(c.ipamBlocks(program, "show", []string{"ipam show", "ipam show pods -o yaml"}), c.ipamCheck(program), c.release(program, "ipam"))
	return cmd
}

func (c *cli) ipamBlocks(program, use string, lines []string) *cobra.Command {
	return noun[agentapi.IPAMBlock]{
		use: use, what: "BLOCK",
		short:    "List the blocks that pods' addresses come from",
		long:     "List the blocks of this node, their pools, and how many addresses are in use or\nfree. A draining block gives no more. BLOCK is a prefix, an address in it, or a\npool's name.",
		examples: lines,
		fetch: func(client agentapi.Client, ctx context.Context) ([]agentapi.IPAMBlock, error) {
			ipam, err := client.IPAM(ctx)
			return ipam.Blocks, err
		},
		columns: []column[agentapi.IPAMBlock]{
			{"BLOCK", false, func(b agentapi.IPAMBlock) string { return b.Prefix.String() }},
			{"POOL", false, func(b agentapi.IPAMBlock) string { return or(b.Pool, "node.spec.podCIDRs") }},
			{"STATE", false, func(b agentapi.IPAMBlock) string { return or(b.State, "Active") }},
			{"USED", false, func(b agentapi.IPAMBlock) string { return strconv.FormatInt(b.Used, 10) }},
			{"FREE", false, func(b agentapi.IPAMBlock) string { return strconv.FormatInt(b.Free, 10) }},
			{"REVISION", true, func(b agentapi.IPAMBlock) string { return strconv.FormatInt(b.Revision, 10) }},
			{"NODE", true, func(b agentapi.IPAMBlock) string { return b.Node }},
		},
		named: func(b agentapi.IPAMBlock, name string) bool {
			addr, err := netip.ParseAddr(name)
			return name == b.Prefix.String() || name == b.Pool || err == nil && b.Prefix.Contains(addr)
		},
	}.command(c, program)
}

func (c *cli) ipamCheck(program string) *cobra.Command {
	columns := []column[agentapi.IPAMLeak]{
		{"KIND", false, func(l agentapi.IPAMLeak) string { return l.Kind }},
		{"ADDRESSES", false, func(l agentapi.IPAMLeak) string { return list(l.Addrs) }},
		{"OWNER", false, func(l agentapi.IPAMLeak) string { return l.Owner }},
		{"WHAT", false, func(l agentapi.IPAMLeak) string { return l.Text }},
	}
	return &cobra.Command{
		Use:     "check",
		Short:   "Compare leases, interfaces, blocks and the runtime's sandboxes",
		Long:    "Compare the leases with the interfaces that are there, the node's blocks and the\nruntime's sandboxes, and list what doesn't fit, and what pods wait for. What is\nunder way looks like a leak for a moment: look twice. It exits with 1 if there is\nany.",
		Example: examples(program, []string{"ipam check", "ipam check -o json"}),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			return c.show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				ipam, err := client.IPAM(ctx)
				if err != nil {
					return nil, err
				}
				rows := ipam.Leaks
				for _, w := range ipam.Waiting {
					text := "waits for an address of pool " + w.Pool
					if w.Address != "" {
						text = "waits for address " + w.Address
					}
					rows = append(rows, agentapi.IPAMLeak{Kind: "waiting", Owner: w.ContainerID + "/" + w.IfName, Text: text})
				}
				var text bytes.Buffer
				if len(rows) == 0 && c.output != "json" && c.output != "yaml" {
					fmt.Fprintln(&text, "leases, interfaces and blocks agree")
					return text.Bytes(), nil
				}
				if err := render(&text, c.output, columns, rows); err != nil || len(rows) == 0 {
					return text.Bytes(), err
				}
				return text.Bytes(), errNotWell
			})
		},
	}
}

// release is the verb of two nouns.
func (c *cli) release(program, noun string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "release ADDRESS|CONTAINER",
		Short:   "End leases whose interface is gone",
		Long:    "End the lease of an address, or all of a container: it begins to rest. A lease\nwhose interface is there is left alone, unless it is forced; then the pod goes on\nwith an address that another may get.",
		Example: examples(program, []string{noun + " release 10.244.0.7", noun + " release 3f1c2a --force"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			request := agentapi.IPAMRelease{Container: args[0], Force: force}
			if addr, err := netip.ParseAddr(args[0]); err == nil {
				request = agentapi.IPAMRelease{Address: addr, Force: force}
			}
			ended, err := client.ReleaseIPAM(cmd.Context(), request)
			if err != nil {
				return err
			}
			for _, l := range ended {
				fmt.Fprintf(c.stdout, "released %s of %s/%s\n", list(l.Addrs), l.ContainerID, l.IfName)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if the interface is there")
	return cmd
}
