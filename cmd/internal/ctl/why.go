// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// whyPatience is for a connection that nobody answers, tried several times by
// another node.
const whyPatience = 15 * time.Second

// why is the verb why of addresses.
func (c *cli) why(program string) *cobra.Command {
	probe := false
	cmd := &cobra.Command{
		Use:   "why ADDRESS[:PORT]",
		Short: "Explain where a LoadBalancer address is, or why it isn't reached",
		Long: `Explain a LoadBalancer address link by link, as this node sees it: its pool and
record, the node that has it and those next in line with the reasons, the NIC, who
answers for it and what was seen on the wire, the frontend with its backends and
policy, and the way of replies. With --probe, nodes that don't have the address ask
for it over the wire now, by ARP or neighbour discovery and a TCP connection.

It exits with 1 if a link is broken.`,
		Example: examples(program, []string{"addresses why 192.0.2.10", "addresses why [2001:db8::10]:443 --probe"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, port, err := addressAndPort(args[0])
			if err != nil {
				return err
			}
			client, err := c.begin()
			if err != nil {
				return err
			}
			client.Timeout = whyPatience
			return c.show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				why, err := client.WhyAddress(ctx, agentapi.WhyRequest{Addr: addr, Port: port, Probe: probe})
				if err != nil {
					return nil, err
				}
				var text bytes.Buffer
				if err := renderWhy(&text, c.output, why); err != nil {
					return nil, err
				}
				if !why.OK {
					return text.Bytes(), errNotWell
				}
				return text.Bytes(), nil
			})
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "have nodes that don't have the address try it over the wire")
	return cmd
}

// addressAndPort reads an address with or without a port; IPv6 with one has brackets.
func addressAndPort(text string) (addr netip.Addr, port uint16, err error) {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().Unmap(), both.Port(), nil
	}
	if addr, err = netip.ParseAddr(strings.Trim(text, "[]")); err != nil {
		return addr, 0, fmt.Errorf("%q is no address, or address and port", text)
	}
	return addr.Unmap(), 0, nil
}

// renderWhy writes an explanation.
func renderWhy(to *bytes.Buffer, output string, why agentapi.Why) error {
	if output != "table" && output != "wide" {
		return encode(to, output, why)
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, l := range why.Links {
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.State, l.Name, l.Text)
		if l.Name != "owner" {
			continue
		}
		for _, candidate := range why.Candidates {
			note := ""
			if candidate.Owner {
				note = " (has it)"
			} else if !candidate.Eligible {
				note = " (can't have it)"
			}
			fmt.Fprintf(w, "\t\t  %s%s: %s\n", candidate.Node, note, candidate.Reason)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(to, "%s: %s\n", why.Addr, why.Verdict)
	return err
}
