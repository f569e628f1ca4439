// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// slack is what a busy machine may add to a target.
const slack = 2 * time.Second

// binEnv names where the programs are built already, as for guests and for tests
// in their own namespaces.
const binEnv = "PATCHBAY_BIN"

// isolated runs f as a test in its own namespaces, with the programs built.
func isolated(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	netlab.Require(t)
	if os.Getenv(binEnv) == "" {
		bin := t.TempDir()
		site.Build(t, bin)
		t.Setenv(binEnv, bin)
	}
	netlab.Isolate(t, f)
}

// raise raises a lab in the test's own namespaces.
func raise(t *testing.T, nodes int) *Lab {
	t.Helper()
	l := New(t, os.Getenv(binEnv), t.TempDir(), nodes)
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("VERBOSE") != "" {
			t.Logf("%s", l.Tail(8000))
		}
	})
	return l
}

// try runs the faults of these names, each on another node than the one before.
func try(t *testing.T, nodes int, names ...string) {
	isolated(t, func(t *testing.T) { run(t, raise(t, nodes), names...) })
}

func run(t *testing.T, l *Lab, names ...string) {
	t.Helper()
	for at, name := range names {
		i := slices.IndexFunc(Faults(), func(f Fault) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		check(t, l.Try(Faults()[i], at%len(l.machines), false))
	}
}

// check reports a trial.
func check(t *testing.T, trial Trial) {
	t.Helper()
	t.Log(trial)
	if testing.Verbose() {
		for _, o := range trial.Away {
			t.Log(o)
		}
	}
	if complaints := trial.Complaints(slack); len(complaints) > 0 {
		t.Errorf("%s, %s:\n%s\n%s", trial.Fault.Name, trial.Node, strings.Join(complaints, "\n"), trial.History)
	}
}

func TestThreeNodes(t *testing.T) {
	isolated(t, func(t *testing.T) {
		l := raise(t, 3)
		moved(t, l, 1)
		run(t, l, "agent restarted again and again", "agent gone for good", "SIGTERM", "drained", "carrier lost", "frames lost silently", "stopped")
		restore := l.LoseSource()
		run(t, l, "cut off on all NICs")
		restore()
	})
}

// TestFault tries the faults $FAULT, separated by commas, on $NODES nodes, $RUNS times.
func TestFault(t *testing.T) {
	faults := os.Getenv("FAULT")
	if faults == "" {
		t.Skip("FAULT names none")
	}
	var names []string
	for range number(t, "RUNS", 1) {
		names = append(names, strings.Split(faults, ",")...)
	}
	try(t, number(t, "NODES", 3), names...)
}

func TestTwoNodes(t *testing.T) {
	isolated(t, func(t *testing.T) {
		l := raise(t, 2)
		run(t, l, "agent gone for good", "cut off on all NICs", "frames lost silently")
		explained(t, l)
		strangerSeen(t, l)
	})
}

func TestOneNode(t *testing.T) { try(t, 1, "agent restarted again and again", "agent gone for good") }
