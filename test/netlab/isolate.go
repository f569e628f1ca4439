// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// isolatedEnv tells a re-executed test binary which test it was started for.
const isolatedEnv = "NETLAB_ISOLATED"

// Isolate runs f as the test, in a process of its own inside a node's
// namespaces: the usual paths are private, and nothing that f makes outlives it.
// It re-executes the test binary for this test alone, so it is the test's only statement.
func Isolate(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	Require(t)
	if os.Getenv(isolatedEnv) == t.Name() {
		up := Namespace{fd: selfNamespace(t)}
		up.Up(t, "lo")
		f(t)
		return
	}
	exe, err := os.Executable()
	must(t, err, "find test binary")
	cmd, err := unshareCommand(NewCgroup(t), `exec "$@"`, exe, "-test.v", "-test.count=1", "-test.run", pattern(t.Name()))
	must(t, err, "isolate")
	cmd.Env = append(cmd.Env, isolatedEnv+"="+t.Name())
	runtime.LockOSThread() // the child's life hangs on this thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	t.Logf("in its own namespaces:\n%s", out)
	switch {
	case err != nil:
		t.Fatalf("in its own namespaces: %v", err)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		t.Skip("skipped in its own namespaces")
	}
}

// Confine runs a program inside a node's namespaces, as Isolate does a test,
// until it ends or ctx does. Nothing that it started or made there is left then.
// Its output goes to the caller's.
func Confine(ctx context.Context, args ...string) (err error) {
	cgroup, err := makeCgroup()
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	defer func() { err = errors.Join(err, endCgroup(cgroup)) }()
	cmd, err := unshareCommand(cgroup, `ip link set lo up; exec "$@"`, args...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	runtime.LockOSThread() // the child's life hangs on this thread
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = killCgroup(cgroup)
		_ = cmd.Process.Kill() // if it hasn't got to its cgroup yet
	})
	defer stop()
	err = cmd.Wait()
	return errors.Join(err, killCgroup(cgroup))
}

// selfNamespace opens the network namespace that the process is in.
func selfNamespace(t *testing.T) *os.File {
	fd, err := os.Open("/proc/self/ns/net")
	must(t, err, "open network namespace")
	t.Cleanup(func() { fd.Close() })
	return fd
}

// pattern is the -test.run pattern for exactly the test of that name.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}
