// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
)

const (
	// syncEnv has the test binary make ("enable") or take away ("disable") the
	// external switch where it is, and end.
	syncEnv = "PB_TEST_SYNC"
	// sweepEnv kills at each system call that changes something, not at some.
	sweepEnv = "PB_KILL_SWEEP"
)

func step(what string) []Switch {
	if what == "enable" {
		return declared()[1:]
	}
	return nil
}

// killed makes a step in a process that is killed when it makes a system call for
// the n-th time, and tells whether it lived that long.
func killed(t *testing.T, what, call string, n int) bool {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n),
		os.Args[0], "-test.run", "^TestKilled$")
	cmd.Env = append(os.Environ(), syncEnv+"="+what)
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatalf("%s, killed at %s %d: %v: %s", what, call, n, err, out)
	}
	return err != nil
}

// A port that is being enabled or disabled when the program is killed, at any
// step, is what it must be after the next start, whatever is wanted then; nothing
// that it had is lost.
func TestKilled(t *testing.T) {
	if what := os.Getenv(syncEnv); what != "" {
		runtime.LockOSThread() // strace counts each thread's calls
		sync(t, step(what)...)
		return
	}
	netlab.Isolate(t, func(t *testing.T) {
		if _, err := exec.LookPath("strace"); err != nil {
			t.Fatal("needs strace: test/deps.sh installs it")
		}
		d := managed(t, managers()["NetworkManager"])
		d.here.Exec(t, "ip", "link", "set", "port3", "mtu", "1400")
		states := map[string][]string{"disable": sorted(d.state(t))}
		sync(t, step("enable")...)
		states["enable"] = sorted(d.state(t))
		sync(t)
		ways := [][2]string{{"enable", "enable"}, {"enable", "disable"}, {"disable", "disable"}, {"disable", "enable"}}
		stride, kills := 8, 0
		if os.Getenv(sweepEnv) != "" {
			stride = 1
		}
		for i, way := range ways {
			for _, call := range []string{"sendto", "write"} {
				for n := 1 + 2*i%stride; ; n += stride {
					if way[0] == "disable" {
						sync(t, step("enable")...)
					}
					lived := !killed(t, way[0], call, n)
					sync(t, step(way[1])...)
					if diff := cmp.Diff(states[way[1]], sorted(d.state(t))); diff != "" {
						t.Fatalf("%s, killed at %s %d, then %s (-want +got):\n%s", way[0], call, n, way[1], diff)
					}
					sync(t)
					if got := sorted(d.state(t)); !slices.Equal(got, states["disable"]) {
						t.Fatalf("%s, killed at %s %d, then %s: the port isn't as before (-before +after):\n%s", way[0], call, n, way[1], cmp.Diff(states["disable"], got))
					}
					if lived {
						break
					}
					kills++
				}
			}
		}
		t.Logf("%d kills", kills)
	})
}
