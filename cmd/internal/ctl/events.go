// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// events lists what has happened. While it watches, it adds what is new.
func (c *cli) events(program string) *cobra.Command {
	n := noun[agentapi.Event]{
		use: "events", what: "TEXT", aliases: []string{"event"},
		short: "List what has happened lately",
		long: `List what the agent has done and noticed since it started, the oldest first.
With --watch it goes on with what is new. TEXT is an event's own.`,
		examples: []string{"events", "events --watch"},
		columns: []column[agentapi.Event]{
			{"TIME", false, func(e agentapi.Event) string { return e.Time.Local().Format(time.DateTime) }},
			{"LEVEL", false, func(e agentapi.Event) string { return e.Level }},
			{"EVENT", false, func(e agentapi.Event) string { return e.Text }},
			{"DETAILS", false, func(e agentapi.Event) string { return e.Details }},
		},
		named: func(e agentapi.Event, name string) bool { return e.Text == name },
	}
	var last uint64
	n.fetch = func(client agentapi.Client, ctx context.Context) ([]agentapi.Event, error) {
		events, err := client.Events(ctx, last)
		if c.watch && len(events) > 0 {
			last = events[len(events)-1].Number
		}
		return events, err
	}
	cmd := n.command(c, program)
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !c.watch {
			return list(cmd, args)
		}
		return c.follow(cmd.Context(), n)
	}
	return cmd
}

// follow prints events as they come, under one head.
func (c *cli) follow(ctx context.Context, n noun[agentapi.Event]) error {
	client, err := c.begin()
	if err != nil {
		return err
	}
	for first := true; ; {
		rows, err := n.fetch(client, ctx)
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			var text bytes.Buffer
			if err := render(&text, c.output, n.columns, rows); err != nil {
				return err
			}
			out := text.Bytes()
			if !first && c.output != "json" && c.output != "yaml" {
				_, out, _ = bytes.Cut(out, []byte("\n"))
			}
			if _, err := c.stdout.Write(out); err != nil {
				return err
			}
			first = false
		}
		if err := c.wait(ctx, c.every); err != nil {
			return err
		}
	}
}
