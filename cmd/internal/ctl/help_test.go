// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHelpOfRoot(t *testing.T) {
	got, _, code := call(t, "--help")
	want := `Look at Patchbay on this node: its pods, Services, LoadBalancer addresses,
leases, NICs and dropped packets, as the agent has them in force.

It exits with 0 if all is well, 1 if something isn't, 2 if it was called wrongly.

Usage:
  patchbayctl [command]

Examples:
  patchbayctl status
  patchbayctl services default/web -o yaml

Available Commands:
  addresses   List the LoadBalancer addresses and who announces them
  drops       List why and how many packets were dropped
  help        Help about any command
  leases      List the address leases of this node
  nics        List the NICs of this node and their roles
  pods        List the pods of this node that the agent serves
  routes      List, add and remove custom routes
  services    List the Services' frontends that are in force
  status      Show how the agent of this node fares
  switches    List the device's virtual switches, enable ports for compute

Flags:
  -h, --help                help for patchbayctl
      --interval duration   time between two looks of --watch (default 1s)
  -o, --output string       one of table, wide, json, yaml (default "table")
      --socket string       the agent's socket (default "/run/patchbay/agent.sock")
  -w, --watch               look again and again, and print when something changed

Use "patchbayctl [command] --help" for more information about a command.
`
	if diff := cmp.Diff(want, got); code != exitOK || diff != "" {
		t.Errorf("help, exit %d (-want +got):\n%s", code, diff)
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
