// SPDX-License-Identifier: Apache-2.0

// Package agent is patchbayd: it wires the node agent together, and holds its
// other verbs.
package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/monitor/events"
)

const usage = `usage: patchbayd [flags]                 run the agent
       patchbayd [flags] install-cni    copy the CNI binaries that lie beside this one
       patchbayd [flags] gossip-key     put the cluster's key into gossip.keyFile; made if there is none
       patchbayd [flags] cleanup        remove everything that agent and pods have on this node
       patchbayd idle                   wait for SIGTERM
       patchbayd version
flags:
`

// options are the command line.
type options struct {
	config string
	role   string
	dir    string
}

// Main runs patchbayd and returns its exit status.
func Main(args []string) int {
	var o options
	flags := flag.NewFlagSet("patchbayd", flag.ContinueOnError)
	flags.StringVar(&o.config, "config", config.DefaultPath, "configuration `file`")
	flags.StringVar(&o.role, "role", "node", "node, or device: keeps the device's virtual switches")
	flags.StringVar(&o.dir, "dir", "/opt/cni/bin", "`folder` of CNI binaries, for install-cni and cleanup")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	verb, err := parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := do(ctx, verb, o); err != nil {
		fmt.Fprintf(os.Stderr, "patchbayd: %v\n", err)
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "The agent must be run as root.")
		}
		return 1
	}
	return 0
}

// parse takes flags before and after the verb.
func parse(flags *flag.FlagSet, args []string) (verb string, err error) {
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	if flags.NArg() == 0 {
		return "", nil
	}
	verb = flags.Arg(0)
	if err := flags.Parse(flags.Args()[1:]); err != nil {
		return "", err
	}
	if flags.NArg() != 0 {
		fmt.Fprintf(flags.Output(), "patchbayd %s: unexpected argument %q\n", verb, flags.Arg(0))
		return "", errors.New("unexpected argument")
	}
	return verb, nil
}

// do carries out a verb.
func do(ctx context.Context, verb string, o options) error {
	switch verb {
	case "version":
		fmt.Println("patchbayd", version())
		return nil
	case "idle":
		<-ctx.Done()
		return nil
	case "install-cni":
		return installCNI(o.dir)
	case "gossip-key":
		cfg, err := config.Load(o.config)
		if err != nil {
			return err
		}
		return gossipKey(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	case "cleanup":
		cfg, err := config.Load(o.config)
		if errors.Is(err, fs.ErrNotExist) {
			cfg, err = config.Parse(nil) // the usual places
		}
		if err != nil {
			return err
		}
		return cleanup(cfg, o)
	case "":
		cfg, err := config.Load(o.config)
		if err != nil {
			return err
		}
		return run(ctx, cfg, o.role)
	}
	return fmt.Errorf("unknown verb %q; see patchbayd -h", verb)
}

// run is the agent until ctx ends.
func run(ctx context.Context, cfg config.Config, role string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return err
	}
	recent := events.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	log := slog.New(recent)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40) // memory is dearer than the little CPU that it takes
	}
	switch role {
	case "node":
		return runNode(ctx, cfg, log)
	case "device":
		return runDevice(ctx, cfg, log)
	}
	return fmt.Errorf("role %q is neither node nor device", role)
}

// version is what the program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}
