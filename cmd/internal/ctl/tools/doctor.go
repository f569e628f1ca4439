// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools/doctor"
)

// doctor is the tool that looks for what is wrong with a node.
func (t *tools) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong on this node, and say what to do",
		Long: `Look for what is wrong on this node: what the kernel lacks, settings, what other
network software has left behind, NICs, MTUs and ranges that contradict each
other. Each finding says why it matters and what to do; nothing is changed. With
--server the nodes are compared by what their agents report. It exits with 1 if
something doesn't work.`,
		Example: t.examples("doctor", "doctor -o json"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.Begin()
			if err != nil {
				return err
			}
			return t.Show(cmd.Context(), func(ctx context.Context) ([]byte, error) {
				if client.Handler != nil { // Kubernetes in the agent's place
					return t.diagnosis(doctor.ExamineCluster(ctx, client))
				}
				return t.diagnosis(doctor.Examine(ctx, doctor.Env{Agent: client}))
			})
		},
	}
}

func (t *tools) diagnosis(r doctor.Report) ([]byte, error) {
	var text bytes.Buffer
	done, err := t.Encode(&text, r)
	if err != nil {
		return nil, err
	}
	if !done {
		for _, f := range r.Findings {
			fmt.Fprintf(&text, "%-7s  %s: %s\n         (%s)\n", f.Severity, f.Topic, f.Text, f.Why)
			for _, line := range f.Remedy {
				fmt.Fprintf(&text, "         → %s\n", line)
			}
		}
		fmt.Fprintf(&text, "looked at %s: %d findings\n", strings.Join(r.Checked, ", "), len(r.Findings))
	}
	if r.Bad() {
		return text.Bytes(), output.ErrNotWell
	}
	return text.Bytes(), nil
}
