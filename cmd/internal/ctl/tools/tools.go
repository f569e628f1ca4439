// SPDX-License-Identifier: Apache-2.0

// Package tools holds the command line's tools: what does more than list
// things.
package tools

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// ErrNotWell makes the exit code 1 where the output itself says what is wrong.
var ErrNotWell = errors.New("not well")

// Shell is what the tools need of the program around them.
type Shell interface {
	// Begin checks the settings and makes a client. What fails from here on isn't
	// the caller's mistake.
	Begin() (agentapi.Client, error)
	// Show prints what look returns: once, or with --watch whenever it is another.
	Show(ctx context.Context, look func(context.Context) ([]byte, error)) error
	// Encode writes a value as --output says; false: a table is wanted.
	Encode(w io.Writer, value any) (done bool, err error)
	// Stdout and Stderr are where to write.
	Stdout() io.Writer
	Stderr() io.Writer
}

// tools are the commands.
type tools struct {
	Shell
	program string
}

// Commands returns the tools' commands for a program of that name.
func Commands(shell Shell, program string) []*cobra.Command {
	t := &tools{shell, program}
	return []*cobra.Command{t.trace(), t.capture(), t.doctor(), t.bundle()}
}

// examples are a command's.
func (t *tools) examples(lines ...string) string {
	text := ""
	for i, line := range lines {
		if i > 0 {
			text += "\n"
		}
		text += "  " + t.program + " " + line
	}
	return text
}
