// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/remote"
)

// patience is how long a shell waits for names.
const patience = time.Second

// complete offers the names that a noun would take: whatever its cells have
// that names the row.
func (n noun[T]) complete(c *cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := remote.Client(cmd.Context(), c.socket, c.server, c.node)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client.Timeout = patience
		rows, err := n.fetch(client, cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, row := range rows {
			for _, name := range n.candidates(row) {
				if strings.HasPrefix(name, begun) && n.named(row, name) && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// candidates are what may name a row: namespace and name together, and each of
// its cells' values.
func (n noun[T]) candidates(row T) []string {
	var all []string
	before := ""
	for i, col := range n.columns {
		cell := col.cell(row)
		if i == 1 && n.columns[0].head == "NAMESPACE" && before != "" {
			all = append(all, before+"/"+cell)
		}
		before = cell
		if cell != "" {
			all = append(all, strings.Split(cell, ",")...)
		}
	}
	return all
}
