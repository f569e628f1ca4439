// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// errNotWell makes the exit code 1 where the output itself says what is wrong.
var errNotWell = output.ErrNotWell

// noun is a command that lists things of one type.
type noun[T any] struct {
	use, what, short, long string
	aliases, examples      []string
	fetch                  func(agentapi.Client, context.Context) ([]T, error)
	columns                []column[T]
	named                  func(T, string) bool // whether a row is meant by a name
}

// command makes the noun's command.
func (n noun[T]) command(c *cli, program string) *cobra.Command {
	return &cobra.Command{
		Use:     n.use + " [" + n.what + "]",
		Aliases: n.aliases,
		Short:   n.short,
		Long:    n.long,
		Example: examples(program, n.examples),
		Args:    cobra.MaximumNArgs(1),

		ValidArgsFunction: n.complete(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			return c.show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				rows, err := n.fetch(client, ctx)
				if err != nil {
					return nil, err
				}
				if len(args) == 1 {
					rows = slices.DeleteFunc(rows, func(row T) bool { return !n.named(row, args[0]) })
					if len(rows) == 0 && !c.watch {
						return nil, fmt.Errorf("%s %q: not found", n.use, args[0])
					}
				}
				var text bytes.Buffer
				err = render(&text, c.output, n.columns, rows)
				return text.Bytes(), err
			})
		},
	}
}

func examples(program string, lines []string) string {
	var text string
	for i, line := range lines {
		if i > 0 {
			text += "\n"
		}
		text += "  " + program + " " + line
	}
	return text
}

// column is one column of a noun's table.
type column[T any] struct {
	head string
	wide bool // with -o wide only
	cell func(T) string
}

// render writes rows as the format says. JSON and YAML are lists also of one.
func render[T any](w io.Writer, format string, columns []column[T], rows []T) error {
	if output.Structured(format) {
		if rows == nil {
			rows = []T{}
		}
		return output.Encode(w, format, rows)
	}
	var shown []column[T]
	var heads []string
	for _, c := range columns {
		if !c.wide || format == "wide" {
			shown, heads = append(shown, c), append(heads, c.head)
		}
	}
	table := [][]string{heads}
	for _, row := range rows {
		var cells []string
		for _, c := range shown {
			cells = append(cells, or(c.cell(row), "-"))
		}
		table = append(table, cells)
	}
	return output.Table(w, table)
}

func encode(w io.Writer, format string, value any) error { return output.Encode(w, format, value) }

// or returns s, or the stand-in for an empty one.
func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

func list[T fmt.Stringer](values []T) string { return output.List(values) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
