// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const (
	agentConfig = `
nodeName: node-a
source: file:/etc/patchbay/objects
podCIDRs: [10.244.0.0/16, "fd00:244::/56"]
serviceCIDRs: [10.96.0.0/16, "fd00:96::/112"]
`
	agentObjects = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.0.0/22, podCIDRs: [10.244.0.0/22, "fd00:244:0:0::/118"]}
status: {addresses: [{type: InternalIP, address: 192.168.1.1}, {type: InternalIP, address: "fd00:1::1"}]}
`
	conflist = "/etc/cni/net.d/00-patchbay.conflist"
)

// agent is the real one, a process that a supervisor keeps.
type agent struct {
	t      *testing.T
	binary string
	mu     sync.Mutex
	cmd    *exec.Cmd
}

// newRealLab returns a node with the real agent and the configuration that it
// writes. The test must be isolated.
func newRealLab(t *testing.T, binary string) (*lab, *agent) {
	t.Helper()
	return newRealLabWith(t, binary, agentObjects, func() {})
}

// newRealLabWith takes the node's object, and what to start before the agent.
func newRealLabWith(t *testing.T, binary, objects string, start func()) (*lab, *agent) {
	t.Helper()
	node := netlab.Open(t, "/proc/self/ns/net")
	lan := netlab.NewSwitch(t)
	lan.Join(t, node, "eth0")
	node.Addr(t, "eth0", "192.168.1.1/24")
	node.Addr(t, "eth0", "fd00:1::1/64")
	node.Route(t, "default", netip.MustParseAddr("192.168.1.254"), "eth0")
	for path, text := range map[string]string{"/etc/patchbay/config.yaml": agentConfig, "/etc/patchbay/objects/node.yaml": objects} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	start()
	a := &agent{t: t, binary: binary}
	a.start()
	t.Cleanup(a.kill)
	a.awaitReady()
	list, err := os.ReadFile(conflist)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{dir: "/run/patchbay", Runtime: cnilab.NewRuntime(t, node, os.Getenv(binEnv), string(list)), store: store.New(store.PodLeases, store.Options{})}
	l.endpoints = func() int {
		pods, err := agentapi.Client{}.Pods(t.Context())
		if err != nil {
			t.Error(err)
		}
		return len(pods)
	}
	return l, a
}

func (a *agent) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cmd = exec.Command(a.binary)
	a.cmd.Stderr = os.Stderr
	if err := a.cmd.Start(); err != nil {
		a.t.Errorf("start agent: %v", err)
	}
}

func (a *agent) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

func (a *agent) awaitReady() {
	netlab.WaitFor(a.t, time.Minute, "agent ready", func() error { return a.ready() })
}

// ready returns what the agent lacks to serve an ADD.
func (a *agent) ready() error {
	status, err := agentapi.Client{Timeout: time.Second}.Status(a.t.Context())
	if err == nil && !status.Ready {
		err = errors.New(status.Reason)
	}
	if _, missing := os.Stat(conflist); err == nil {
		err = missing
	}
	return err
}

// killAtRandom kills the agent and starts it again until stop is closed: a
// while after it got ready, and now and then while it starts. It returns how
// often.
func (a *agent) killAtRandom(stop <-chan struct{}) (kills int) {
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for ; ; kills++ {
		if err := netlab.Poll(time.Minute, a.ready); err != nil {
			a.t.Errorf("agent killed %d times is not ready: %v", kills, err)
			return kills
		}
		select {
		case <-stop:
			return kills
		case <-time.After(time.Duration(r.IntN(800)) * time.Millisecond):
		}
		a.kill()
		a.start()
		if r.IntN(2) == 0 {
			time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
			a.kill()
			a.start()
			kills++
		}
	}
}

// buildAgent builds patchbayd, outside of the isolation, and returns its path.
func buildAgent(t *testing.T) string {
	netlab.Require(t)
	path := filepath.Join(os.Getenv(binEnv), "patchbayd")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := cnilab.BuildAgent(path); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestManyPodsOnAgent makes and ends 500 pods, 16 at a time, with the real
// agent.
func TestManyPodsOnAgent(t *testing.T) {
	binary := buildAgent(t)
	netlab.Isolate(t, func(t *testing.T) {
		l, _ := newRealLab(t, binary)
		pods := makePods(t)
		start := time.Now()
		checkDistinct(t, l.addAll(t, pods))
		added := time.Since(start)
		if n := l.endpoints(); n != manyPods {
			t.Errorf("%d endpoints, want %d", n, manyPods)
		}
		pods[0].Exec(t, "ping", "-c1", "-W2", "10.244.0.2")
		start = time.Now()
		l.delAll(t, pods)
		t.Logf("%d ADDs in %s, %d DELs in %s", manyPods, added, manyPods, time.Since(start))
		l.awaitClean(t)
	})
}

// TestKilledAgentManyPods does so while the agent is killed at random moments,
// with fewer pods unless in a full sweep.
func TestKilledAgentManyPods(t *testing.T) {
	binary := buildAgent(t)
	netlab.Isolate(t, func(t *testing.T) {
		l, a := newRealLab(t, binary)
		stop, stopped := make(chan struct{}), make(chan int, 1)
		go func() { stopped <- a.killAtRandom(stop) }()
		pods := makePods(t)
		if os.Getenv(sweepEnv) == "" {
			pods = pods[:manyPods/5]
		}
		checkDistinct(t, l.addAll(t, pods))
		l.delAll(t, pods)
		close(stop)
		t.Logf("agent killed %d times", <-stopped)
		a.awaitReady()
		l.awaitClean(t)
	})
}

// TestKillOnAgent kills ADD and DEL at every system call, with the real agent.
func TestKillOnAgent(t *testing.T) {
	if os.Getenv(sweepEnv) == "" {
		t.Skip("part of the full sweep: " + sweepEnv)
	}
	binary := buildAgent(t)
	netlab.Isolate(t, func(t *testing.T) {
		l, _ := newRealLab(t, binary)
		k := killerOn(t, l)
		k.killAdd(t)
		k.killDel(t)
	})
}

// awaitClean waits until nothing of any pod is left: an agent that was away
// tidies up when it is back.
func (l *lab) awaitClean(t *testing.T) {
	t.Helper()
	netlab.WaitFor(t, time.Minute, "nothing left", func() error {
		if e, n, leases := l.endpoints(), l.links(t), l.contents(t).Leases; e != 0 || n != 0 || len(leases) != 0 {
			return fmt.Errorf("%d endpoints, %d links, leases %v are left", e, n, leases)
		}
		return nil
	})
	l.checkClean(t)
}
