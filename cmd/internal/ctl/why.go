// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// serviceName matches the names of Services and of namespaces.
var serviceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// whyPatience is for a connection that nobody answers, tried several times by
// another node.
const whyPatience = 15 * time.Second

// why is the verb why of addresses.
func (c *cli) why(program string) *cobra.Command {
	probe, from := false, ""
	cmd := &cobra.Command{
		Use:   "why ADDRESS[:PORT]|[NAMESPACE/]SERVICE",
		Short: "Explain where a LoadBalancer address is, or why it isn't reached",
		Long: `Explain a LoadBalancer address link by link, as this node sees it: its pool and
record, the Service, the node that has it and those next in line with the reasons,
the NIC, who answers for it, the frontend with its backends and policy, the way of
replies, and what was seen on the wire. The first line says what is to be repaired.
With --probe, nodes that don't have the address ask for it over the wire now, by ARP
or neighbour discovery and a TCP connection; with --from, what a certain client is
told or kept from is looked at too. A Service by its name is explained by all of its
addresses, or by why it has none.

It exits with 1 if a link is broken.`,
		Example: examples(program, []string{"addresses why 192.0.2.10", "addresses why [2001:db8::10]:443 --probe --from 2001:db8:7::1", "addresses why shop/web"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := whyRequest(args[0], from)
			if err != nil {
				return err
			}
			request.Probe = probe
			client, err := c.begin()
			if err != nil {
				return err
			}
			client.Timeout = whyPatience
			return c.show(cmd.Context(), func(ctx context.Context) ([]byte, error) { return c.explain(ctx, client, request) })
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "have nodes that don't have the address try it over the wire")
	cmd.Flags().StringVar(&from, "from", "", "the `ADDRESS` of a client that can't reach it")
	return cmd
}

// explain asks, for each address of a Service that has several, and writes the
// answers.
func (c *cli) explain(ctx context.Context, client agentapi.Client, request agentapi.WhyRequest) ([]byte, error) {
	var text bytes.Buffer
	var all []agentapi.Why
	ok := true
	for next := []agentapi.WhyRequest{request}; len(next) > 0; next = next[1:] {
		why, err := client.WhyAddress(ctx, next[0])
		if err != nil {
			return nil, err
		}
		all, ok = append(all, why), ok && why.OK
		for _, addr := range why.Others {
			further := request
			further.Addr, further.Service = addr, ""
			next = append(next, further)
		}
	}
	for i, why := range all {
		if i > 0 {
			between := "\n"
			if c.output == "yaml" {
				between = "---\n"
			}
			text.WriteString(between)
		}
		if err := renderWhy(&text, c.output, why); err != nil {
			return nil, err
		}
	}
	if !ok {
		return text.Bytes(), errNotWell
	}
	return text.Bytes(), nil
}

// whyRequest reads what is asked about: an address with or without a port, or
// the name of a Service.
func whyRequest(text, from string) (r agentapi.WhyRequest, err error) {
	if from != "" {
		if r.From, err = netip.ParseAddr(from); err != nil {
			return r, fmt.Errorf("--from: %q is no address", from)
		}
		r.From = r.From.Unmap()
	}
	r.Addr, r.Port, err = addressAndPort(text)
	if err == nil || strings.ContainsAny(text, ":[]") {
		return r, err
	}
	namespace, name, ok := strings.Cut(text, "/")
	if !ok {
		namespace, name = "default", text
	}
	if !serviceName.MatchString(name) || !serviceName.MatchString(namespace) {
		return r, fmt.Errorf("%q is no address, no address and port, and no Service", text)
	}
	r.Service = namespace + "/" + name
	return r, nil
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

// renderWhy writes an explanation: what to repair, if anything, and then all
// that was looked at.
func renderWhy(to *bytes.Buffer, output string, why agentapi.Why) error {
	if output != "table" && output != "wide" {
		return encode(to, output, why)
	}
	what, state := "", "well, as "+why.Node+" sees it"
	if why.Addr.IsValid() {
		what = why.Addr.String() + ": "
		if why.Port != 0 {
			what = netip.AddrPortFrom(why.Addr, why.Port).String() + ": "
		}
	}
	if !why.OK {
		state = "BROKEN"
	}
	fmt.Fprintf(to, "%s%s: %s\n", what, state, why.Verdict)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, l := range why.Links {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", l.State, l.Name, l.Text)
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
	return w.Flush()
}
