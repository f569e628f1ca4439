// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// edit replaces a piece of an object's text, and returns what undoes it.
func (l *Lab) edit(object, old, now string) (undo func()) {
	l.tb.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, "objects", object+".yaml"))
	if err != nil || !strings.Contains(string(text), old) {
		l.tb.Fatalf("edit %s: %v, no %q in %s", object, err, old, text)
	}
	l.Declare(object, strings.Replace(string(text), old, now, 1))
	return func() { l.Declare(object, string(text)) }
}

// placed waits until a Service's addresses are answered by one of these nodes alone.
func placed(t *testing.T, l *Lab, what string, s Service, nodes ...string) {
	t.Helper()
	netlab.WaitFor(t, homecoming, what, func() error {
		for _, addr := range s.Addrs() {
			if by := l.Observer.Answering(addr); !slices.Contains(nodes, by) {
				return fmt.Errorf("%s is answered by %s", addr, by)
			}
		}
		return nil
	})
}

// TestWishes: addresses are where Services and nodes want them, and move there
// without a request lost; and whatever they want, one node answers.
func TestWishes(t *testing.T) {
	isolated(t, func(t *testing.T) {
		l := raise(t, 2)
		first, second := l.Services[0], l.Services[1]
		load := l.StartLoad(first)
		begin := Now()

		undo := l.edit("service-"+first.Name, "annotations: {", "annotations: {patchbay.net/preferred-nodes: node-b, ")
		placed(t, l, "the preferred node", first, "node-b")
		undo()
		placed(t, l, "no longer preferred", first, "node-a")
		undo = l.edit("service-"+first.Name, "annotations: {", `annotations: {patchbay.net/announce-nics: "eth9,eth1", `)
		placed(t, l, "on a NIC that is named", first, "node-a")
		undo()

		const label = `labels: {node.kubernetes.io/exclude-from-external-load-balancers: "", `
		undo = l.edit("node-node-a", "labels: {", label)
		placed(t, l, "the other node is left out", first, "node-b")
		undoB := l.edit("node-node-b", "labels: {", label)
		both := Now()
		netlab.WaitFor(t, homecoming, "the controller says that both are left out", func() error {
			text, err := os.ReadFile(filepath.Join(l.Logs(), "controller.log"))
			if err == nil && !strings.Contains(string(text), "though all nodes are excluded") {
				err = errors.New("its log has nothing of it")
			}
			return err
		})
		placed(t, l, "all the same", first, "node-a", "node-b")
		if doubles := l.Doubles(both, Now()); len(doubles) > 0 {
			t.Errorf("%v", doubles[0])
		}
		undoB()
		undo()
		placed(t, l, "none is left out", first, "node-a")

		time.Sleep(aftermath)
		end := Now()
		load.Stop()
		for _, o := range load.Outages(begin, end) {
			if o.Lost > 0 {
				t.Errorf("while wishes changed: %v", o)
			}
		}
		local(t, l, second)
		withoutFolder(t, l)
	})
}

// local has a Service's packets stay on their node: its addresses go where its
// last endpoints are, and stay answered when there are none.
func local(t *testing.T, l *Lab, s Service) {
	t.Helper()
	pods := func(at int) *site.Pod { return l.machines[at].Pods[fmt.Sprintf("echo-%d", at)] }
	l.Serve(s.Service, pods(0))
	undo := l.edit("service-"+s.Name, "type: LoadBalancer\n", "type: LoadBalancer\n  externalTrafficPolicy: Local\n")
	defer func() { l.Serve(s.Service, pods(0), pods(1)) }()
	defer undo()
	placed(t, l, "where its endpoint is", s, "node-a")
	serve := func(list ...*site.Pod) {
		l.Serve(s.Service, list...)
		l.edit("service-"+s.Name, "type: LoadBalancer\n", "type: LoadBalancer\n  externalTrafficPolicy: Local\n")
	}
	serve(pods(1))
	placed(t, l, "where its endpoint is now", s, "node-b")
	serve()
	time.Sleep(aftermath)
	placed(t, l, "without endpoints", s, "node-a", "node-b")
}

// withoutFolder has all agents start while the source of objects is away: they
// know from their last life what they need, and take over.
func withoutFolder(t *testing.T, l *Lab) {
	t.Helper()
	l.WaitSettled(homecoming)
	restore := l.LoseSource()
	defer restore()
	begin := Now()
	for _, m := range l.machines {
		m.KillAgent(syscall.SIGKILL)
		m.StartAgent()
	}
	time.Sleep(4 * time.Second) // the source goes before the snapshot for 3 s
	for i, s := range l.Services {
		placed(t, l, "all stay", s, l.machines[i].Name)
		for _, addr := range s.Addrs() {
			if moves := l.Moves(addr, begin, Now()); len(moves) != 1 {
				t.Errorf("%s went from %s", addr, strings.Join(moves, " to "))
			}
		}
	}
	heal := cutOff(l, l.machines[0])
	placed(t, l, "the only node", l.Services[0], "node-b")
	heal()
	l.WaitSettled(homecoming)
}
