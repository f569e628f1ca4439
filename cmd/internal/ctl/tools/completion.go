// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"fmt"

	"github.com/spf13/cobra"
)

// completion prints what makes a shell complete commands, flags and names.
func (t *tools) completion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete commands and names",
		Long: `Print what makes a shell complete commands, flags, and the names of what there
is on this node. SHELL is bash, zsh or fish.`,
		Example:   t.examples("completion bash", "completion zsh"),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			t.Begun()
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(t.Stdout(), true)
			case "zsh":
				return root.GenZshCompletion(t.Stdout())
			case "fish":
				return root.GenFishCompletion(t.Stdout(), true)
			}
			return fmt.Errorf("no completion for %s", args[0])
		},
	}
}
