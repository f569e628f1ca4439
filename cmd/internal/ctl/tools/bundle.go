// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools/bundle"
)

// bundle is the tool that packs what a supporter needs.
func (t *tools) bundle() *cobra.Command {
	var file, config string
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Pack what is needed to find out what is wrong",
		Long: `Pack what is needed to find out what is wrong with this node into a tar.gz: what
the agent says, doctor's findings, configuration and objects, the kernel's
links, routes and rules, maps in numbers, settings, metrics, and logs if there
are any. Secrets, keys and tokens are taken out. What can't be had is named
inside.`,
		Example: t.examples("bundle", "bundle --file /tmp/node-a.tar.gz"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			client, err := t.Begin()
			if err != nil {
				return err
			}
			now := time.Now()
			if file == "" {
				host, _ := os.Hostname()
				file = fmt.Sprintf("patchbay-%s-%s.tar.gz", host, now.UTC().Format("20060102-150405"))
			}
			var out io.WriteCloser = nopCloser{t.Stdout()}
			if file != "-" {
				if out, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
					return err
				}
				fmt.Fprintln(t.Stderr(), file)
			}
			defer func() { err = errors.Join(err, out.Close()) }()
			return bundle.Write(cmd.Context(), bundle.Options{Config: config, Agent: client, Now: now}, out)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "where to write; - is the standard output (default patchbay-HOST-TIME.tar.gz)")
	cmd.Flags().StringVar(&config, "config", "", "the agent's configuration (default its usual place)")
	return cmd
}

// nopCloser is a writer that stays open.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
