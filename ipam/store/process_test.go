// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-net/patchbay/ipam"
)

// helperEnv makes the test binary one of many processes on a store: it holds
// what the process does, its store and its name.
const helperEnv = "PB_STORE_HELPER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(helperEnv); spec != "" {
		if err := helper(strings.Fields(spec)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper does "allocate path name", "release path name" or "churn path name
// rounds"; allocations are printed.
func helper(args []string) error {
	if slices.Contains([]string{"dual", "fixed", "end", "gc"}, args[0]) {
		return randomHelper(args)
	}
	s := New(args[1], Options{})
	p, err := ipam.NewPool("4", ipam.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/22")})
	if err != nil {
		return err
	}
	key := Key{args[2], "eth0"}
	switch args[0] {
	case "allocate":
		lease, err := s.Allocate(request(args[2], p))
		if err == nil {
			fmt.Println(lease.Addrs[0])
		}
		return err
	case "release":
		_, _, err := s.Release(key, 0)
		return err
	}
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	for i := range rounds {
		r := request(fmt.Sprint(args[2], "-", i), p)
		lease, err := s.Allocate(r)
		if err != nil {
			return err
		}
		fmt.Println(lease.Addrs[0])
		if i%2 == 0 {
			if _, _, err := s.Release(r.Lease.Key, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// run runs the test binary as a helper and returns what it printed.
func run(t testing.TB, wrapper []string, args ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	argv := append(append([]string(nil), wrapper...), self)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join(args, " "), "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

// TestManyProcesses lets processes allocate and release at once: no address is
// given twice.
func TestManyProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	const processes, rounds = 16, 40
	outputs := make([]string, processes)
	errs := make([]error, processes)
	var wait sync.WaitGroup
	for i := range processes {
		wait.Go(func() { outputs[i], errs[i] = run(t, nil, "churn", path, fmt.Sprint("p", i), strconv.Itoa(rounds)) })
	}
	wait.Wait()
	given := map[string]bool{}
	for i, out := range outputs {
		must(t, errs[i])
		for _, a := range strings.Fields(out) {
			if given[a] {
				t.Errorf("%s was given twice", a)
			}
			given[a] = true
		}
	}
	if len(given) != processes*rounds {
		t.Errorf("%d addresses given, want %d", len(given), processes*rounds)
	}
	contents := list(t, New(path, Options{}))
	if len(contents.Leases) != processes*rounds/2 || len(contents.Resting) != processes*rounds/2 {
		t.Errorf("%d leases, %d resting, want %d each", len(contents.Leases), len(contents.Resting), processes*rounds/2)
	}
}

// stateCalls are the system calls by which a store changes its files; a kill
// between any two of them is a kill at one.
func stateCalls() []string {
	return []string{"openat", "flock", "pwrite64", "ftruncate", "mmap", "munmap", "renameat", "unlinkat", "linkat", "mkdirat", "close"}
}

// TestKill kills allocations and releases at every one of those calls, makes
// them again and looks for what is left.
func TestKill(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("needs strace: test/deps.sh installs it")
	}
	for _, action := range []string{"allocate", "release"} {
		for _, fresh := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s fresh=%t", action, fresh), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "leases.db")
				kills := 0
				for _, call := range stateCalls() {
					for when := 1; ; when++ {
						if fresh {
							os.Remove(path)
						}
						if !killAt(t, path, action, call, when) {
							break
						}
						kills++
					}
				}
				if kills < 20 {
					t.Errorf("%d kills, want more", kills)
				}
				t.Logf("%d kills", kills)
			})
		}
	}
}

// killAt kills one action at its n-th call of a name, repeats it and checks the
// store. It reports whether the action lived long enough to be killed.
func killAt(t *testing.T, path, action, call string, when int) bool {
	t.Helper()
	name := fmt.Sprint(call, when)
	if action == "release" {
		if _, err := run(t, nil, "allocate", path, name); err != nil {
			t.Fatal(err)
		}
	}
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, when)
	_, err := run(t, []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", inject}, action, path, name)
	if err != nil && !strings.Contains(err.Error(), "signal: killed") {
		t.Fatalf("killed at %s %d, it said: %v", call, when, err)
	}
	if _, err := run(t, nil, action, path, name); err != nil {
		t.Fatalf("%s killed at %s %d, made again: %v", action, call, when, err)
	}
	contents := list(t, New(path, Options{}))
	held := map[netip.Addr]bool{}
	for _, l := range contents.Leases {
		if l.Damaged || len(l.Addrs) != 1 || held[l.Addrs[0]] {
			t.Fatalf("killed at %s %d: lease %+v", call, when, l)
		}
		held[l.Addrs[0]] = true
	}
	if action == "release" && len(contents.Leases) != 0 || len(contents.Reserved) != 0 {
		t.Fatalf("killed at %s %d: %+v", call, when, contents)
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Fatalf("killed at %s %d: the store was damaged", call, when)
	}
	if _, err := run(t, nil, "release", path, name); err != nil {
		t.Fatal(err)
	}
	return err != nil
}
