// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// sweepEnv makes the tests kill at every system call, the runtime's own
// included, instead of at those that change something.
const sweepEnv = "PB_KILL_SWEEP"

// changing are the calls by which something outside the process changes.
func changing() []string {
	return []string{"sendto", "write", "pwrite64", "ftruncate", "flock", "openat", "renameat", "unlinkat", "mkdirat",
		"connect", "setns", "ioctl", "close", "exit_group"}
}

// quietRuns is after how many runs that nothing killed a sweep leaves a call:
// how often a process makes it varies a little.
const quietRuns = 2

// killer calls a verb by itself, without libcni, so that a kill hits nothing
// else.
type killer struct {
	*lab
	pod  *netlab.Namespace
	conf []byte
}

func newKiller(t *testing.T) *killer {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("needs strace: test/deps.sh installs it")
	}
	return killerOn(t, newLab(t))
}

func killerOn(t *testing.T, l *lab) *killer {
	k := &killer{lab: l, pod: netlab.New(t)}
	k.conf = []byte(strings.Replace(string(k.List.Plugins[0].Bytes), "{", `{"cniVersion":"1.1.0","name":"patchbay",`, 1))
	return k
}

// call runs a verb for a container under the wrapper.
func (k *killer) call(verb, id string, wrapper ...string) error {
	argv := append(append([]string(nil), wrapper...), filepath.Join(os.Getenv(binEnv), "patchbay"))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+id, "CNI_NETNS="+k.pod.Path(),
		"CNI_IFNAME=eth0", "CNI_PATH="+os.Getenv(binEnv), "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME="+id)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(k.conf), &out, &out
	if err := k.Node.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", verb, id, err, out.String())
	}
	return nil
}

// point is a moment of a process: its n-th system call of a name.
type point struct {
	call string
	n    int
}

func (p point) String() string { return fmt.Sprintf("%s %d", p.call, p.n) }

// killed runs a verb that is killed at a point, and reports whether it lived
// that long.
func (k *killer) killed(t *testing.T, verb, id string, p point) bool {
	t.Helper()
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", p.call, p.n)
	err := k.call(verb, id, "strace", "-f", "-qq", "-o", "/dev/null", "-e", inject)
	if err != nil && !strings.Contains(err.Error(), "signal: killed") {
		t.Fatalf("killed at %s, it said: %v", p, err)
	}
	return err != nil
}

// calls returns the names of the system calls to kill at. In a sweep these are
// all that an ADD makes.
func (k *killer) calls(t *testing.T) []string {
	t.Helper()
	if os.Getenv(sweepEnv) == "" {
		return changing()
	}
	trace := filepath.Join(k.dir, "trace")
	if err := k.call("ADD", "traced", "strace", "-f", "-qq", "-o", trace); err != nil {
		t.Fatal(err)
	}
	if err := k.call("DEL", "traced"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(string(text), -1) {
		seen[match[1]] = true
	}
	delete(seen, "execve") // strace's own
	return slices.Sorted(maps.Keys(seen))
}

// sweep calls try for one point after the other until none is left.
func (k *killer) sweep(t *testing.T, try func(id string, p point) (killed bool)) {
	t.Helper()
	kills := 0
	for _, call := range k.calls(t) {
		for n, quiet := 1, 0; quiet < quietRuns; n++ {
			quiet++
			if try(fmt.Sprint(call, "-", n), point{call, n}) {
				kills, quiet = kills+1, 0
			}
		}
	}
	if kills < 30 {
		t.Errorf("%d kills, want more", kills)
	}
	t.Logf("%d kills", kills)
}

// TestKillAdd kills ADD, makes the same call again, and ends the attachment.
func TestKillAdd(t *testing.T) { newKiller(t).killAdd(t) }

func (k *killer) killAdd(t *testing.T) {
	k.sweep(t, func(id string, p point) bool {
		killed := k.killed(t, "ADD", id, p)
		if err := k.call("ADD", id); err != nil {
			t.Errorf("again: %v", err)
		}
		if leases := k.contents(t).Leases; len(leases) != 1 || k.links(t) != 1 || k.endpoints() != 1 {
			t.Errorf("again: %d leases, %d links, %d endpoints, want one each", len(leases), k.links(t), k.endpoints())
		}
		if err := k.call("DEL", id); err != nil {
			t.Errorf("DEL: %v", err)
		}
		k.checkAfterKill(t, p)
		return killed
	})
}

// TestKillAddThenDel kills ADD and ends the attachment, as a kubelet does.
func TestKillAddThenDel(t *testing.T) {
	k := newKiller(t)
	k.sweep(t, func(id string, p point) bool {
		killed := k.killed(t, "ADD", id, p)
		if err := k.call("DEL", id); err != nil {
			t.Errorf("DEL: %v", err)
		}
		k.checkAfterKill(t, p)
		return killed
	})
}

// TestKillDel kills DEL and makes the same call again.
func TestKillDel(t *testing.T) { newKiller(t).killDel(t) }

func (k *killer) killDel(t *testing.T) {
	k.sweep(t, func(id string, p point) bool {
		if err := k.call("ADD", id); err != nil {
			t.Fatal(err)
		}
		killed := k.killed(t, "DEL", id, p)
		if err := k.call("DEL", id); err != nil {
			t.Errorf("again: %v", err)
		}
		k.checkAfterKill(t, p)
		return killed
	})
}

func (k *killer) checkAfterKill(t *testing.T, p point) {
	t.Helper()
	k.checkClean(t)
	if reserved := k.contents(t).Reserved; len(reserved) != 0 {
		t.Errorf("reserved: %v", reserved)
	}
	if _, err := os.Stat(filepath.Join(k.dir, "leases.db.damaged")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store was damaged: %v", err)
	}
	if t.Failed() {
		t.Fatalf("so it was after a kill at %s", p)
	}
}
