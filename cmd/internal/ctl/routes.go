// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/reconcile/noderoutes"
)

func (c *cli) routes(program string) *cobra.Command {
	cmd := c.routesNoun().command(c, program)
	get := c.routesNoun()
	get.use, get.aliases = "get", nil
	get.short = "List the custom routes of an interface"
	get.long = "List the custom routes of an interface, or all: never a route of the system's."
	get.examples = []string{"routes get Port3", "routes get Port3 -o yaml"}
	get.named = func(r agentapi.Route, name string) bool { return r.Interface == name }
	cmd.AddCommand(get.command(c, program), c.addRoute(program), c.removeRoute(program))
	return cmd
}

func (c *cli) routesNoun() noun[agentapi.Route] {
	return noun[agentapi.Route]{
		use: "routes", what: "INTERFACE", aliases: []string{"route"},
		short: "List, add and remove custom routes",
		long: `List the custom routes for this node, whether they are in force, and why not.
Routes of the system's are never among them. INTERFACE is an interface's name;
a destination is taken, too.`,
		examples: []string{"routes", "routes Port3 -o wide"},
		fetch: func(client agentapi.Client, ctx context.Context) ([]agentapi.Route, error) {
			routes, err := client.Routes(ctx)
			if errors.Is(err, agentapi.ErrUnavailable) {
				return c.ownRoutes().List()
			}
			return routes, err
		},
		columns: []column[agentapi.Route]{
			{"INTERFACE", false, func(r agentapi.Route) string { return r.Interface }},
			{"DESTINATION", false, func(r agentapi.Route) string { return r.Destination.String() }},
			{"NEXT-HOP", false, nextHop},
			{"METRIC", false, func(r agentapi.Route) string { return strconv.Itoa(r.Metric) }},
			{"STATE", false, func(r agentapi.Route) string { return r.State }},
			{"FOR", false, func(r agentapi.Route) string { return or(r.NodeRoute, "this node") }},
			{"REASON", false, func(r agentapi.Route) string { return r.Message }},
		},
		named: func(r agentapi.Route, name string) bool { return r.Interface == name || r.Destination.String() == name },
	}
}

func nextHop(r agentapi.Route) string {
	if !r.NextHop.IsValid() {
		return ""
	}
	return r.NextHop.String()
}

// addRoute is the verb add.
func (c *cli) addRoute(program string) *cobra.Command {
	var a agentapi.RouteAdd
	cmd := &cobra.Command{
		Use:   "add INTERFACE PREFIX",
		Short: "Add a custom route",
		Long: `Add a route that leads to an address or a prefix out of an interface, by a next
hop that is on the link. Of routes to one destination that with the lowest metric
goes first. It is kept in force, also over a reboot, on all nodes: on this one at
once, on the others as soon as the cluster can be told. The interface must have a
static address of the route's family. What can't be is refused, and nothing changed.`,
		Example: examples(program, []string{
			"routes add Port3 192.168.20.0/24 --next-hop 192.168.20.1 --metric 100",
			"routes add eth1 fd00:20::/64 --next-hop fd00:50::1 --this-node",
		}),
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.Interface, a.Destination = args[0], args[1]
			return c.changeRoutes(cmd.Context(), func(ctx context.Context, client agentapi.Client) ([]agentapi.Route, error) {
				added, err := client.AddRoute(ctx, a)
				if errors.Is(err, agentapi.ErrUnavailable) {
					added, err = c.ownRoutes().Add(a)
				}
				return []agentapi.Route{added}, err
			})
		},
	}
	cmd.Flags().StringVar(&a.NextHop, "next-hop", "", "the router's `address`; none if the destination is on the link")
	cmd.Flags().IntVar(&a.Metric, "metric", 100, "the lowest goes first")
	cmd.Flags().BoolVar(&a.NodeOnly, "this-node", false, "for this node only, not for all")
	return cmd
}

// removeRoute is the verb remove.
func (c *cli) removeRoute(program string) *cobra.Command {
	return &cobra.Command{
		Use:   "remove INTERFACE PREFIX",
		Short: "Remove a custom route",
		Long: `Remove a custom route; interface and prefix are enough to name it. One that all
nodes have is removed from all.`,
		Example: examples(program, []string{"routes remove Port3 192.168.20.0/24", "route remove eth1 fd00:20::/64"}),
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a := agentapi.RouteRemove{Interface: args[0], Destination: args[1]}
			return c.changeRoutes(cmd.Context(), func(ctx context.Context, client agentapi.Client) ([]agentapi.Route, error) {
				removed, err := client.RemoveRoute(ctx, a)
				if errors.Is(err, agentapi.ErrUnavailable) {
					removed, err = c.ownRoutes().Remove(ctx, a)
				}
				return slices.Collect(func(yield func(agentapi.Route) bool) {
					for _, r := range removed {
						if r.State = "Removed"; !yield(r) {
							return
						}
					}
				}), err
			})
		},
	}
}

// changeRoutes does something to routes and prints those it was done to.
func (c *cli) changeRoutes(ctx context.Context, do func(context.Context, agentapi.Client) ([]agentapi.Route, error)) error {
	client, err := c.begin()
	if err != nil {
		return err
	}
	client.Timeout = 0 // the cluster may have to be told
	routes, err := do(ctx, client)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := render(&text, c.output, c.routesNoun().columns, routes); err != nil {
		return err
	}
	_, err = c.stdout.Write(text.Bytes())
	return err
}

// ownRoutes are the routes of a node whose agent doesn't run, or isn't there
// yet: they are recorded and put in force, and the agent keeps them from its
// start on.
func (c *cli) ownRoutes() *noderoutes.Routes {
	cfg, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		cfg, err = config.Parse(nil) // the usual places
	}
	path := "/var/lib/patchbay/routes.db"
	if err == nil {
		path = filepath.Join(cfg.Paths.State, "routes.db")
	}
	return noderoutes.New(noderoutes.Options{Path: path, Cluster: slices.Concat(cfg.PodCIDRs, cfg.ServiceCIDRs)})
}
