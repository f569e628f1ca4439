// SPDX-License-Identifier: Apache-2.0

// Package tools holds the command line's tools: what does more than list
// things.
package tools

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Shell is what the tools need of the program around them.
type Shell interface {
	// Begin checks the settings and makes a client. What fails from here on isn't
	// the caller's mistake.
	Begin() (agentapi.Client, error)
	// Begun tells that the arguments were right, where no client is needed.
	Begun()
	// Show prints what look returns: once, or with --watch whenever it is another.
	Show(ctx context.Context, look func(context.Context) ([]byte, error)) error
	// Encode writes a value as --output says; false: a table is wanted.
	Encode(w io.Writer, value any) (done bool, err error)
	// Wide tells whether more is wanted than usual.
	Wide() bool
	// Now is the time.
	Now() time.Time
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
	return []*cobra.Command{t.status(), t.trace(), t.capture(), t.doctor(), t.bundle(), t.completion()}
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
