// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"
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

// Every command says what it does, what it takes, and gives two examples that
// begin with the program's name.
func TestHelpOfCommands(t *testing.T) {
	root := (&cli{}).root("kubectl-patchbay")
	for _, cmd := range root.Commands() {
		t.Run(cmd.Name(), func(t *testing.T) {
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Long) <= len(cmd.Short) {
				t.Errorf("want a short and a long text, got %q and %q", cmd.Short, cmd.Long)
			}
			for line := range strings.Lines(cmd.Long) {
				if len(line) > 81 {
					t.Errorf("want lines of at most 80 characters, got %q", line)
				}
			}
			lines := strings.Split(cmd.Example, "\n")
			if len(lines) != 2 {
				t.Fatalf("want two examples, got %q", cmd.Example)
			}
			for _, line := range lines {
				args, ok := strings.CutPrefix(line, "  kubectl-patchbay ")
				if !ok || !strings.HasPrefix(args, cmd.Name()) {
					t.Errorf("want an example of %s, got %q", cmd.Name(), line)
				}
				if found, rest, err := root.Find(strings.Fields(args)); err != nil || found != cmd {
					t.Errorf("%q: want it to be valid, got %v, %v", line, rest, err)
				}
			}
		})
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
