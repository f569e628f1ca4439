// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/cluster/internal/checks"
	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

// test raises a cluster of its own, runs all there is on it and ends it,
// whatever happened. It fails if any part did. What a killed test left goes
// first; one that runs is waited for.
func (e *env) test(ctx context.Context) (err error) {
	start := time.Now()
	e.name, e.dualStack = e.testName(), true
	unlock, err := e.alone(ctx, e.name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := lab.New(e.name, e.stateDir()).Down(); err != nil {
		return err
	}
	if err := e.packages(ctx); err != nil {
		return err
	}
	l, err := e.up(ctx)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, l.Down())
		fmt.Fprintf(e.out, "cluster: %.0f s in all\n", time.Since(start).Seconds())
	}()
	if e.kubeProxy {
		if err := e.installKubeProxy(ctx, l); err != nil {
			return errors.Join(err, e.describe(ctx, l))
		}
		return e.endToEndKubeProxy(ctx, l)
	}
	if err := e.install(ctx, l); err != nil {
		return errors.Join(err, e.describe(ctx, l))
	}
	failed := errors.Join(e.app(ctx, l), checks.Run(ctx, l, e.out), e.endToEnd(ctx, l, nil))
	if failed != nil {
		failed = errors.Join(failed, e.describe(ctx, l))
	}
	return errors.Join(failed, e.uninstall(ctx, l))
}

// errRuns is returned for a test's lock that another process has.
var errRuns = errors.New("a test runs")

// alone waits until no other test runs on this machine, and keeps others
// waiting until the returned function is called or this process ends.
func (e *env) alone(ctx context.Context, name string) (func(), error) {
	for said := false; ; said = true {
		unlock, err := e.lock(name)
		if !errors.Is(err, errRuns) {
			return unlock, err
		}
		if !said {
			fmt.Fprintln(e.out, "cluster: waiting for another test to end")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// lock takes the lock of a test's cluster, or returns errRuns.
func (e *env) lock(name string) (func(), error) {
	if err := os.MkdirAll(e.stateDir(), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(e.stateDir(), name+".alone"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil, errors.Join(errRuns, f.Close())
	}
	return func() { f.Close() }, nil
}

// down ends the cluster, and what a killed test left; a test that runs goes on.
func (e *env) down() error {
	err := lab.New(e.name, e.stateDir()).Down()
	unlock, lockErr := e.lock(e.testName())
	if errors.Is(lockErr, errRuns) {
		fmt.Fprintf(e.out, "cluster: %s stays, as a test runs on it\n", e.testName())
		return err
	}
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	return errors.Join(err, lab.New(e.testName(), e.stateDir()).Down())
}

// packages installs the Debian packages that the tests need.
func (e *env) packages(ctx context.Context) error {
	return e.attach(exec.CommandContext(ctx, filepath.Join(e.root, "test/deps.sh")))
}

// describe prints the state of the cluster for the log of a failed run, and
// the end of Patchbay's own logs.
func (e *env) describe(ctx context.Context, l *lab.Lab) error {
	for _, args := range [][]string{
		{"get", "nodes,pods,services", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"-n", "patchbay-system", "logs", "-l", "app.kubernetes.io/name=patchbayd", "--prefix", "--tail=40"},
		{"-n", "patchbay-system", "logs", "-l", "app.kubernetes.io/name=patchbay-controller", "--prefix", "--tail=40"},
	} {
		fmt.Fprintf(e.out, "--- kubectl %s\n", strings.Join(args, " "))
		out, err := l.Kubectl(ctx, args...).CombinedOutput()
		if ctx.Err() != nil {
			return nil
		}
		if _, err := io.WriteString(e.out, lastLines(string(out), 60)+"\n"); err != nil {
			return err
		}
		if err != nil {
			fmt.Fprintln(e.out, err)
		}
	}
	return nil
}
