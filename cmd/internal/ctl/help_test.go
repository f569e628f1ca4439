// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// The root's help names every command that there is.
func TestHelpOfRoot(t *testing.T) {
	got, _, code := call(t, "--help")
	if code != exitOK || !strings.HasPrefix(got, "Look at Patchbay on this node: ") {
		t.Errorf("help, exit %d:\n%s", code, got)
	}
	for _, cmd := range (&cli{}).root("patchbayctl").Commands() {
		if !strings.Contains(got, "\n  "+cmd.Name()+" ") || !strings.Contains(got, cmd.Short) {
			t.Errorf("help doesn't name %s: %s", cmd.Name(), cmd.Short)
		}
	}
}

// Every command and verb says what it does, what it takes, and gives two examples
// or more that begin with the program's name.
func TestHelpOfCommands(t *testing.T) {
	root := (&cli{}).root("kubectl-patchbay")
	for _, cmd := range all(root) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Long) <= len(cmd.Short) {
				t.Errorf("want a short and a long text, got %q and %q", cmd.Short, cmd.Long)
			}
			for line := range strings.Lines(cmd.Long) {
				if n := utf8.RuneCountInString(line); n > 89 {
					t.Errorf("want lines of at most 88 characters, got %q", line)
				}
			}
			lines := strings.Split(cmd.Example, "\n")
			if len(lines) < 2 {
				t.Fatalf("want two examples, got %q", cmd.Example)
			}
			for _, line := range lines {
				args, ok := strings.CutPrefix(line, "  kubectl-patchbay ")
				if !ok {
					t.Errorf("want an example of %s, got %q", cmd.CommandPath(), line)
				}
				if found, rest, err := root.Find(strings.Fields(args)); err != nil || found != cmd {
					t.Errorf("%q: want it to be valid, got %v, %v", line, rest, err)
				}
			}
		})
	}
}

// all are the commands below one.
func all(cmd *cobra.Command) (list []*cobra.Command) {
	for _, c := range cmd.Commands() {
		list = append(append(list, c), all(c)...)
	}
	return list
}

// The commands are those that the names of the project list, and policies is not
// there yet.
func TestCommands(t *testing.T) {
	want := []string{
		"addresses", "addresses why", "bundle", "capture", "completion", "doctor", "drops", "events", "ipam", "ipam check", "ipam release", "ipam show",
		"leases", "leases release", "nics", "nodes", "nodes drain", "pods", "pools", "pools drain", "routes", "routes add", "routes get", "routes remove",
		"services", "status", "switches", "switches create", "switches disable-port", "switches enable-port", "trace",
	}
	root := (&cli{}).root("patchbayctl")
	var got []string
	for _, cmd := range all(root) {
		got = append(got, strings.TrimPrefix(cmd.CommandPath(), "patchbayctl "))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, flag := range []string{"output", "watch", "socket", "server"} {
		if root.PersistentFlags().Lookup(flag) == nil {
			t.Errorf("no flag --%s", flag)
		}
	}
	if cmd, _, err := root.Find([]string{"route"}); err != nil || cmd.Name() != "routes" {
		t.Errorf("route: got %v, %v", cmd, err)
	}
}

func TestProgram(t *testing.T) {
	for arg0, want := range map[string]string{
		"/usr/bin/patchbayctl": "patchbayctl", "kubectl-patchbay": "kubectl-patchbay", "/x/patchbayd": "patchbayctl",
	} {
		if got := program(arg0); got != want {
			t.Errorf("%s: want %s, got %s", arg0, want, got)
		}
	}
}
