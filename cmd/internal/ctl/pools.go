// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// pools is the noun of the pools of addresses.
func (c *cli) pools(program string) *cobra.Command {
	cmd := noun[agentapi.Pool]{
		use: "pools", what: "POOL", aliases: []string{"pool"},
		short: "List the pools of addresses, and drain one",
		long: `List the pools of addresses of the cluster: what they have left, who has
LoadBalancer addresses of them, and which of their addresses other machines on
the network use.`,
		examples: []string{"pools", "pools external -o yaml"},
		fetch:    agentapi.Client.Pools,
		columns: []column[agentapi.Pool]{
			{"NAME", false, func(p agentapi.Pool) string { return p.Name }},
			{"USE", false, func(p agentapi.Pool) string { return p.Use }},
			{"TOTAL", false, func(p agentapi.Pool) string { return strconv.FormatInt(p.Total, 10) }},
			{"USED", false, func(p agentapi.Pool) string { return strconv.FormatInt(p.Used, 10) }},
			{"FREE", false, func(p agentapi.Pool) string { return strconv.FormatInt(p.Free, 10) }},
			{"CONFLICTS", false, func(p agentapi.Pool) string { return strconv.Itoa(len(p.Conflicts)) }},
			{"DISABLED", false, func(p agentapi.Pool) string { return yes(p.Disabled) }},
			{"RANGES", true, func(p agentapi.Pool) string { return strings.Join(p.Ranges, ",") }},
			{"OWNERS", true, func(p agentapi.Pool) string { return owners(p.Owners) }},
			{"CONFLICTING", true, func(p agentapi.Pool) string { return conflicting(p.Conflicts) }},
			{"PROBLEM", false, func(p agentapi.Pool) string { return strings.Join(p.Problems, "; ") }},
		},
		named: func(p agentapi.Pool, name string) bool { return p.Name == name },
	}.command(c, program)
	cmd.AddCommand(c.drainPool(program))
	return cmd
}

func owners(list []agentapi.PoolOwner) string {
	texts := make([]string, len(list))
	for i, o := range list {
		texts[i] = o.Address + "=" + o.Service
	}
	return strings.Join(texts, ",")
}

func conflicting(list []agentapi.PoolConflict) string {
	texts := make([]string, len(list))
	for i, c := range list {
		texts[i] = c.Address + "=" + or(c.MAC, "?")
	}
	return strings.Join(texts, ",")
}

// drainPool is the verb drain.
func (c *cli) drainPool(program string) *cobra.Command {
	off := false
	cmd := &cobra.Command{
		Use:   "drain POOL",
		Short: "Have a pool give out no more addresses",
		Long: `Have a pool give out no more addresses, and say who still has some. Nobody loses
one: a Service keeps its address until it is gone, or asks for another address or
pool. It exits with 1 while the pool isn't empty.`,
		Example: examples(program, []string{"pools drain external", "pools drain external --off"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			pool, err := client.DrainPool(cmd.Context(), agentapi.PoolDrain{Pool: args[0], Off: off})
			if err != nil {
				return err
			}
			return c.tellPool(pool)
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "let the pool give again")
	return cmd
}

// tellPool says what became of a drain.
func (c *cli) tellPool(p agentapi.Pool) error {
	if !p.Disabled {
		_, err := fmt.Fprintf(c.stdout, "pool %s gives addresses again\n", p.Name)
		return err
	}
	ofPods := p.Use != string(v1alpha1.UseLoadBalancer) && p.Used > 0 // as the agents count them
	if _, err := fmt.Fprintf(c.stdout, "pool %s gives no more addresses\n", p.Name); err != nil || len(p.Owners) == 0 && !ofPods {
		return err
	}
	var errs []error
	if ofPods {
		_, err := fmt.Fprintf(c.stdout, "in use or resting: %d\n", p.Used)
		errs = append(errs, err)
	}
	for _, o := range p.Owners {
		_, err := fmt.Fprintf(c.stdout, "%s is still that of %s\n", o.Address, o.Service)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, errNotWell)...)
}
