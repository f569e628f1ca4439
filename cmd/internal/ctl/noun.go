// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// errNotWell makes the exit code 1 where the output itself says what is wrong.
var errNotWell = tools.ErrNotWell

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

// show prints what look returns: once, or with --watch whenever it is another.
// While watching, an agent that doesn't answer is reported and waited for.
func (c *cli) show(ctx context.Context, look func(context.Context) ([]byte, error)) error {
	if !c.watch {
		text, err := look(ctx)
		if _, errWrite := c.stdout.Write(text); errWrite != nil {
			return errWrite
		}
		return err
	}
	var last []byte
	var lastErr string
	for first := true; ; first = false {
		text, err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, errNotWell):
			if !errors.Is(err, agentapi.ErrUnavailable) {
				return err
			}
			if err.Error() != lastErr {
				fmt.Fprintln(c.stderr, err)
			}
			lastErr = err.Error()
		case first || lastErr != "" || !bytes.Equal(text, last):
			if err := c.separate(first); err != nil {
				return err
			}
			if _, err := c.stdout.Write(text); err != nil {
				return err
			}
			last, lastErr = text, ""
		}
		if err := c.wait(ctx, c.every); err != nil {
			return err
		}
	}
}

// separate sets one look apart from the one before.
func (c *cli) separate(first bool) error {
	if first {
		return nil
	}
	text := "\n"
	switch c.output {
	case "yaml":
		text = "---\n"
	case "json":
		text = ""
	}
	_, err := c.stdout.Write([]byte(text))
	return err
}

// column is one column of a noun's table.
type column[T any] struct {
	head string
	wide bool // with -o wide only
	cell func(T) string
}

// render writes rows as the format says. JSON and YAML are lists also of one.
func render[T any](w io.Writer, format string, columns []column[T], rows []T) error {
	switch format {
	case "json", "yaml":
		if rows == nil {
			rows = []T{}
		}
		return encode(w, format, rows)
	}
	return printTable(w, format == "wide", columns, rows)
}

func encode(w io.Writer, format string, value any) error {
	if format == "yaml" {
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		_, err = w.Write(text)
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

func printTable[T any](w io.Writer, wide bool, columns []column[T], rows []T) error {
	var text bytes.Buffer
	tw := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	line := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide || wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	line(func(c column[T]) string { return c.head })
	for _, row := range rows {
		line(func(c column[T]) string { return or(c.cell(row), "-") })
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for l := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(l, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// or returns s, or the stand-in for an empty one.
func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

// list joins values by commas.
func list[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
