// SPDX-License-Identifier: Apache-2.0

// Package ctl is patchbayctl, the operator's command line. Nouns alone read:
// they ask the agent of this node and print what it says.
//
//	patchbayctl services default/web -o yaml
//
// It exits with 0 if all is well, 1 if something isn't or can't be had, and 2
// if it was called wrongly.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/cmd/internal/ctl/remote"
	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// Main runs the program with these arguments and returns its exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, env{stdout: os.Stdout, stderr: os.Stderr, now: time.Now, wait: wait}, program(os.Args[0]), args)
}

// env is everything that a command does to the world but talk to the agent.
type env struct {
	stdout, stderr io.Writer
	now            func() time.Time
	wait           func(context.Context, time.Duration) error // between looks of --watch
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func run(ctx context.Context, e env, name string, args []string) int {
	c := &cli{env: e, ctx: ctx}
	root := c.root(name)
	root.SetArgs(args)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return exitOK
	case !c.called:
		fmt.Fprintf(e.stderr, "%s: %v\nTry '%s --help'.\n", root.Name(), err, root.Name())
		return exitUsage
	case errors.Is(err, errNotWell):
		return exitError // the output said why
	}
	fmt.Fprintf(e.stderr, "%s: %v\n", root.Name(), err)
	if text := output.Hint(err); text != "" {
		fmt.Fprintln(e.stderr, text)
	}
	return exitError
}

// program returns the name to show in help: kubectl calls plugins by theirs.
func program(arg0 string) string {
	if base := filepath.Base(arg0); strings.HasPrefix(base, "kubectl-") {
		return base
	}
	return "patchbayctl"
}

// cli holds the settings that all commands share.
type cli struct {
	env
	ctx    context.Context // until the program ends
	socket string
	server string
	node   string
	output string
	watch  bool
	every  time.Duration
	called bool // the arguments were right: a command began its work
}

func (c *cli) root(name string) *cobra.Command {
	root := &cobra.Command{
		Use:   name,
		Short: "Look at Patchbay on this node",
		Long: `Look at Patchbay on this node: its pods, Services, LoadBalancer addresses,
leases, NICs and dropped packets, as the agent has them in force. With --server,
or where there is no agent and a kubeconfig, Kubernetes is asked for what it
knows of all nodes.

It exits with 0 if all is well, 1 if something isn't, 2 if it was called wrongly.`,
		Example:       "  " + name + " status\n  " + name + " services default/web -o yaml",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", agentapi.DefaultSocket, "the agent's socket")
	flags.StringVar(&c.server, "server", "", "ask Kubernetes instead, by this kubeconfig (--server alone: by kubectl's)")
	flags.Lookup("server").NoOptDefVal = remote.Usual
	flags.StringVar(&c.node, "node", "", "with --server: the node to look at (default all)")
	flags.StringVarP(&c.output, "output", "o", "table", "one of "+strings.Join(output.Formats(), ", "))
	flags.BoolVarP(&c.watch, "watch", "w", false, "look again and again, and print when something changed")
	flags.DurationVar(&c.every, "interval", time.Second, "time between two looks of --watch")
	root.AddCommand(c.commands(name)...)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats(), cobra.ShellCompDirectiveNoFileComp)) // it is there
	return root
}

// commands are the nouns, one to a line, and the tools.
func (c *cli) commands(name string) []*cobra.Command {
	return append([]*cobra.Command{
		c.pods(name),
		c.services(name),
		c.addresses(name),
		c.leases(name),
		c.ipam(name),
		c.pools(name),
		c.nics(name),
		c.switches(name),
		c.routes(name),
		c.nodes(name),
		c.drops(name),
		c.events(name),
	}, tools.Commands(shell{c}, name)...)
}

// shell is what the tools see of the cli.
type shell struct{ *cli }

func (s shell) Begin() (agentapi.Client, error) { return s.begin() }
func (s shell) Begun()                          { s.called = true }
func (s shell) Wide() bool                      { return s.output == "wide" }
func (s shell) Now() time.Time                  { return s.now() }
func (s shell) Stdout() io.Writer               { return s.stdout }
func (s shell) Stderr() io.Writer               { return s.stderr }

func (s shell) Show(ctx context.Context, look func(context.Context) ([]byte, error)) error {
	return s.show(ctx, look)
}

func (s shell) Encode(w io.Writer, value any) (done bool, err error) {
	if !output.Structured(s.output) {
		return false, nil
	}
	return true, output.Encode(w, s.output, value)
}

// begin checks the settings and makes a client. What fails from here on isn't
// the caller's mistake.
func (c *cli) begin() (agentapi.Client, error) {
	if !slices.Contains(output.Formats(), c.output) {
		return agentapi.Client{}, fmt.Errorf("--output %q is none of %s", c.output, strings.Join(output.Formats(), ", "))
	}
	if c.every <= 0 {
		return agentapi.Client{}, fmt.Errorf("--interval %s is not positive", c.every)
	}
	c.called = true
	return remote.Client(c.ctx, c.socket, c.server, c.node)
}

// show prints what look returns.
func (c *cli) show(ctx context.Context, look func(context.Context) ([]byte, error)) error {
	p := output.Printer{Stdout: c.stdout, Stderr: c.stderr, Format: c.output, Watch: c.watch, Every: c.every, Wait: c.wait}
	return p.Show(ctx, look)
}
