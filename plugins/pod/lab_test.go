// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// binEnv names the directory of the built plugins.
const binEnv = "PB_TEST_BIN"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(binEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "patchbay-cni-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	err = errors.Join(cnilab.Build(dir), cnilab.BuildTool(dir),
		cnilab.BuildReference(dir, "ipam/host-local", "main/ptp", "main/loopback", "meta/tuning"))
	if err == nil {
		err = os.Setenv(binEnv, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// lab is a node with a runtime and an agent.
type lab struct {
	*cnilab.Runtime
	agent     *fakeAgent // one that only keeps what it is told; nil: the real one
	dir       string
	store     *store.Store
	endpoints func() int // how many the agent keeps
}

const dualStack = `[[{"subnet":"10.244.0.0/22"}],[{"subnet":"fd00:10:244::/118"}]]`

// newLab returns a node whose pods get their addresses in process.
func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabWith(t, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","durable":false,"ranges":`+dualStack+`}`)
}

// newLabWith takes the rest of the plugin's configuration; %[1]s stands for
// the node's directory.
func newLabWith(t testing.TB, conf string, others ...string) *lab {
	t.Helper()
	netlab.Require(t)
	l := &lab{dir: t.TempDir()}
	node := netlab.New(t)
	node.Addr(t, "lo", "192.0.2.1/32")
	node.Addr(t, "lo", "fd00:1::1/128")
	node.Sysctl(t, "net/ipv4/ip_forward", "1")
	node.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	l.Runtime = cnilab.NewRuntime(t, node, os.Getenv(binEnv), confList(l.dir, conf, others...))
	l.store = store.New(filepath.Join(l.dir, "leases.db"), store.Options{})
	l.agent = startAgent(t, l.socket(), node, l.store)
	l.endpoints = func() int { return len(l.agent.list()) }
	return l
}

func confList(dir, conf string, others ...string) string {
	plugin := fmt.Sprintf(`{"type":"patchbay","mtu":1400,"agentSocket":"%[1]s/agent.sock",`+conf+`}`, dir)
	for _, o := range others {
		plugin += "," + o
	}
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"patchbay","plugins":[%s]}`, plugin)
}

func (l *lab) socket() string { return filepath.Join(l.dir, "agent.sock") }

// fakeAgent keeps endpoints, and removes links as the agent does.
type fakeAgent struct {
	node   *netlab.Namespace
	leases *store.Store
	stop   func()

	mu        sync.Mutex
	endpoints map[agentapi.EndpointKey]agentapi.Endpoint
	refuse    error             // what endpoint.add answers
	plan      *agentapi.PodPlan // what pod.plan answers; nil: it doesn't know the question
	ready     bool
	removals  sync.WaitGroup
}

func startAgent(t testing.TB, socket string, node *netlab.Namespace, leases *store.Store) *fakeAgent {
	t.Helper()
	a := &fakeAgent{node: node, leases: leases, endpoints: map[agentapi.EndpointKey]agentapi.Endpoint{}, ready: true}
	a.start(t, socket)
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *fakeAgent) start(t testing.TB, socket string) {
	listener, err := agentapi.Listen(socket)
	if err != nil {
		t.Error(err)
		a.stop = func() {}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	// What one before this left undone: leases that are marked.
	if contents, err := a.leases.List(); err == nil {
		for _, l := range contents.Leases {
			if l.Ended {
				index := 0
				_ = a.node.Do(func() (err error) { index, _, err = podlink.Index(l.Link()); return err })
				_, _ = a.remove(ctx, agentapi.EndpointDelete{EndpointKey: agentapi.EndpointKey(l.Key), HostIfName: l.Link(), HostIfIndex: index, Generation: l.Generation, EndsLease: true})
			}
		}
	}
	done := make(chan error, 1)
	go func() { done <- agentapi.Serve(ctx, listener, a.handler(), slog.New(slog.DiscardHandler)) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
		a.removals.Wait()
	})
}

// restart ends the agent and starts it again; it is away for a moment.
func (a *fakeAgent) restart(t testing.TB, socket string) {
	a.stop()
	time.Sleep(3 * time.Millisecond) // the absence itself
	a.start(t, socket)
}

func (a *fakeAgent) handler() agentapi.Handler {
	return agentapi.Handler{
		agentapi.OpPodPlan: agentapi.Do(func(context.Context, agentapi.PodRequest) (agentapi.PodPlan, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.plan == nil {
				return agentapi.PodPlan{}, agentapi.Errorf(agentapi.CodeUnknown, "unknown operation")
			}
			return *a.plan, nil
		}),
		agentapi.OpEndpointAdd:    agentapi.Do(a.add),
		agentapi.OpEndpointDelete: agentapi.Do(a.remove),
		agentapi.OpEndpointCheck:  agentapi.Do(a.check),
		agentapi.OpGC:             agentapi.Do(a.gc),
		agentapi.OpStatus: agentapi.Do(func(context.Context, agentapi.None) (agentapi.Status, error) {
			return agentapi.Status{Ready: a.ready, Reason: "told so"}, nil
		}),
	}
}

func (a *fakeAgent) add(_ context.Context, e agentapi.Endpoint) (agentapi.None, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		return agentapi.None{}, a.refuse
	}
	a.endpoints[e.EndpointKey] = e
	return agentapi.None{}, nil
}

func (a *fakeAgent) remove(_ context.Context, d agentapi.EndpointDelete) (agentapi.None, error) {
	a.mu.Lock()
	delete(a.endpoints, d.EndpointKey)
	a.mu.Unlock()
	a.removals.Go(func() {
		var err error
		if d.HostIfIndex != 0 {
			err = a.node.Do(func() error { return podlink.RemoveIndex(d.HostIfName, d.HostIfIndex) })
		}
		if err == nil && d.EndsLease {
			_, _, _ = a.leases.Release(store.Key(d.EndpointKey), d.Generation)
		}
	})
	return agentapi.None{}, nil
}

func (a *fakeAgent) check(_ context.Context, e agentapi.Endpoint) (agentapi.None, error) {
	if have, ok := a.list()[e.EndpointKey]; !ok || have.HostIfIndex != e.HostIfIndex {
		return agentapi.None{}, agentapi.Errorf(agentapi.CodeUnknown, "no such endpoint")
	}
	return agentapi.None{}, nil
}

func (a *fakeAgent) gc(_ context.Context, g agentapi.GC) (agentapi.None, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	valid := map[agentapi.EndpointKey]bool{}
	for _, k := range g.Valid {
		valid[k] = true
	}
	for k, e := range a.endpoints {
		if e.Network == g.Network && !valid[k] {
			delete(a.endpoints, k)
		}
	}
	return agentapi.None{}, nil
}

func (a *fakeAgent) list() map[agentapi.EndpointKey]agentapi.Endpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	endpoints := map[agentapi.EndpointKey]agentapi.Endpoint{}
	for k, e := range a.endpoints {
		endpoints[k] = e
	}
	return endpoints
}

// contents returns the lease store's.
func (l *lab) contents(t testing.TB) store.Contents {
	t.Helper()
	contents, err := l.store.List()
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

// links counts the host ends of pods' links.
func (l *lab) links(t testing.TB) int {
	t.Helper()
	return podLinks(l.Node.Exec(t, "ip", "-o", "link"))
}

// awaitUnplugged waits until a pod has no interface of ours any more.
func awaitUnplugged(t testing.TB, pod *netlab.Namespace) {
	t.Helper()
	netlab.WaitFor(t, 5*time.Second, "eth0 gone after DEL", func() error {
		if out, err := pod.TryExec("ip", "link", "show", "eth0"); err == nil {
			return fmt.Errorf("the pod has %s", out)
		}
		return nil
	})
}

// checkClean checks that nothing of any pod is left.
func (l *lab) checkClean(t testing.TB) {
	t.Helper()
	if n := l.endpoints(); n != 0 {
		t.Errorf("%d endpoints left with the agent", n)
	}
	l.awaitGone(t)
}

// awaitGone waits until no pod's link and no lease is left: they go behind DEL's
// answer.
func (l *lab) awaitGone(t testing.TB) {
	t.Helper()
	netlab.WaitFor(t, 10*time.Second, "nothing of any pod left", func() error {
		leases, err := l.store.List()
		if links := l.Node.Exec(t, "ip", "-o", "link"); err != nil || len(leases.Leases) != 0 || podLinks(links) != 0 {
			return fmt.Errorf("leases %+v, links %s, %v", leases.Leases, links, err)
		}
		return nil
	})
}
