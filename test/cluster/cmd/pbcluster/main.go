// SPDX-License-Identifier: Apache-2.0

// Command pbcluster raises a real Kubernetes cluster in namespaces of this
// machine, installs Patchbay on it, and runs tests there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/patchbay-net/patchbay/test/cluster/internal/artefacts"
	"github.com/patchbay-net/patchbay/test/cluster/internal/checks"
	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

const usage = `usage: pbcluster [flags] verb [arguments]

  build                 build Kubernetes and the images, as far as not cached
  image [FILE]          build Patchbay's image as an OCI archive, bin/patchbay-image.tar
  up                    raise a control plane and its nodes, without a CNI plugin
  install               build Patchbay's image and apply deploy/ and the cluster's DNS
  uninstall             take Patchbay off the nodes and see that nothing is left
  kubectl ARGUMENTS     run kubectl as the administrator
  exec MACHINE COMMAND  run a command inside a machine
  client COMMAND        run a command as the outside client
  app                   run the two-tier application's test
  checks                look at what upstream's tests don't: routes, NICs, pools, bad input
  e2e [FOCUS [SKIP]]    run upstream's tests that test/e2e/expected.txt demands, or those
                        that match FOCUS and not SKIP
  test                  all of these in turn on a cluster of its own, which it ends; with
                        -kube-proxy upstream's tests alone, to test/e2e/kube-proxy.txt
  down                  end the cluster, or what is left of it and of a test that was killed

flags:
`

// env is what the verbs work with.
type env struct {
	root      string // of the repository
	cache     string
	name      string
	dualStack bool
	nodes     int
	all       bool
	kubeProxy bool
	out       io.Writer
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	e := env{out: os.Stdout}
	flags := flag.NewFlagSet("pbcluster", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&e.root, "root", ".", "root `directory` of the repository")
	flags.StringVar(&e.cache, "cache", defaultCache(), "`directory` of builds and of the running cluster's state")
	flags.StringVar(&e.name, "name", "pbk8s", "prefix of all names the cluster uses on this machine")
	flags.BoolVar(&e.dualStack, "dual-stack", false, "give nodes, pods and Services IPv6 addresses too")
	flags.IntVar(&e.nodes, "nodes", 0, fmt.Sprintf("raise this `number` of nodes (default %d, or %d with -all)", lab.Nodes, allNodes))
	flags.BoolVar(&e.all, "all", false, "run all tests of test/e2e/expected.txt, not only the conformance tests")
	flags.BoolVar(&e.kubeProxy, "kube-proxy", false, "install kube-proxy and the reference CNI plugins instead of Patchbay")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		if err == nil {
			flags.Usage()
		}
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := e.verb(ctx, flags.Arg(0), flags.Args()[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		flags.Usage()
		return 2
	case errors.As(err, &exit) && exit.ExitCode() > 0 && len(err.Error()) == len(exit.Error()):
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "pbcluster:", err)
		return 1
	}
}

// allNodes is how many nodes upstream's tests ask for: two in each of three zones.
const allNodes = 6

var errUsage = errors.New("usage")

func defaultCache() string {
	dir := os.Getenv("PB_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = "/var/tmp"
		}
		dir = filepath.Join(base, "patchbay")
	}
	return filepath.Join(dir, "cluster")
}

func (e *env) verb(ctx context.Context, verb string, args []string) error {
	switch verb {
	case "enter", "init", "boot":
		return stage(verb, args)
	case "build":
		_, err := e.build(ctx)
		return err
	case "image":
		return e.image(ctx, args...)
	case "up":
		_, err := e.up(ctx)
		return err
	case "down":
		return e.down()
	case "test":
		return e.test(ctx)
	}
	l, err := lab.Load(e.name, e.stateDir())
	if err != nil {
		return err
	}
	switch {
	case verb == "kubectl":
		return e.attach(l.Kubectl(ctx, args...))
	case verb == "client" && len(args) > 0:
		return e.attach(l.Client(ctx, args...))
	case verb == "exec" && len(args) > 1:
		cmd, err := l.Exec(ctx, args[0], args[1:]...)
		if err != nil {
			return err
		}
		return e.attach(cmd)
	case verb == "install" && e.kubeProxy:
		return e.installKubeProxy(ctx, l)
	case verb == "install":
		return e.install(ctx, l)
	case verb == "uninstall":
		return e.uninstall(ctx, l)
	case verb == "app":
		return e.app(ctx, l)
	case verb == "checks":
		return checks.Run(ctx, l, e.out)
	case verb == "e2e" && len(args) <= 2:
		return e.endToEnd(ctx, l, args)
	default:
		return errUsage
	}
}

// stage runs one of the stages in which a machine starts.
func stage(verb string, args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	dir, machine := args[0], args[1]
	l, err := lab.Load(filepath.Base(dir), filepath.Dir(dir))
	if err != nil {
		return err
	}
	switch verb {
	case "enter":
		return l.Enter(machine)
	case "init":
		return l.Init(machine)
	default:
		return l.Boot(machine)
	}
}

func (e *env) stateDir() string { return filepath.Join(e.cache, "run") }

// testName is the name of the cluster that the verb test raises, beside one
// that is up.
func (e *env) testName() string { return e.name + "-test" }

func (e *env) build(ctx context.Context) (*artefacts.Set, error) {
	source, err := filepath.Abs(filepath.Join(e.root, "test/cluster"))
	if err != nil {
		return nil, err
	}
	b := artefacts.Builder{Source: source, Cache: e.cache, Log: e.out}
	return b.Build(ctx)
}

func (e *env) up(ctx context.Context) (*lab.Lab, error) {
	set, err := e.build(ctx)
	if err != nil {
		return nil, err
	}
	l := lab.New(e.name, e.stateDir())
	l.DualStack = e.dualStack
	switch {
	case e.nodes > 0:
		l.SetNodes(e.nodes)
	case e.all || e.kubeProxy:
		l.SetNodes(allNodes)
	}
	l.Images = []string{set.Images()}
	programs, err := set.Binaries()
	if err != nil {
		return nil, err
	}
	return l, l.Up(ctx, programs, e.out)
}

// attach runs cmd on this process's terminal.
func (e *env) attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = nil // the terminal's own process group
	cmd.Cancel = nil
	return cmd.Run()
}
