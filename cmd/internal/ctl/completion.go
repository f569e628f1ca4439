// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completion prints what makes a shell complete commands, flags and names.
func (c *cli) completion(program string) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete commands and names",
		Long: `Print what makes a shell complete commands, flags, and the names of what there
is on this node. SHELL is bash, zsh or fish.`,
		Example:   examples(program, []string{"completion bash", "completion zsh"}),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.called = true
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.stdout, true)
			case "zsh":
				return root.GenZshCompletion(c.stdout)
			case "fish":
				return root.GenFishCompletion(c.stdout, true)
			}
			return fmt.Errorf("no completion for %s", args[0])
		},
	}
}

// patience is how long a shell waits for names.
const patience = time.Second

// complete offers the names that a noun would take: whatever its cells have
// that names the row.
func (n noun[T]) complete(c *cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := c.client(cmd.Context())
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
