// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// agentEnv makes the test binary the agent with this configuration file.
const agentEnv = "AGENT_TEST_CONFIG"

func TestMain(m *testing.M) {
	if path := os.Getenv(agentEnv); path != "" {
		os.Exit(Main([]string{"--config", path}))
	}
	os.Exit(m.Run())
}

// agentProcess starts the agent as a process of its own, to be killed.
func agentProcess(t *testing.T, cfg config.Config) *exec.Cmd {
	t.Helper()
	cmd := startProcess(t)
	netlab.WaitFor(t, 15*time.Second, "agent ready", func() error {
		status, err := agentapi.Client{Path: cfg.Paths.AgentSocket(), Timeout: time.Second}.Status(t.Context())
		if err == nil && !status.Ready {
			err = errors.New(status.Reason)
		}
		return err
	})
	return cmd
}

func startProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), agentEnv+"=/etc/patchbay/config.yaml")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// load opens connections to an address until its context ends.
type load struct {
	done, failed atomic.Int64
	first        atomic.Pointer[error]
}

func (l *load) run(ctx context.Context, from *netlab.Namespace, address string, every time.Duration) error {
	return from.Do(func() error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if err := exchange(address); err != nil {
				l.failed.Add(1)
				l.first.CompareAndSwap(nil, &err)
			}
			l.done.Add(1)
		}
	})
}

// exchange is one connection: opened, served, closed by both.
func exchange(address string) error {
	conn, err := net.DialTimeout("tcp4", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 64))
	return err
}

// TestKilledAgent: new connections, from outside to the LoadBalancer address
// and from a pod to the ClusterIP, while the agent is killed and started over
// and over: none fails. By packets alone, which is the harder way.
func TestKilledAgent(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		mount, err := netlab.CgroupMount()
		if err != nil {
			t.Fatal(err)
		}
		empty := filepath.Join(mount, "empty")
		if err := os.Mkdir(empty, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(empty)
		testKilled(t, "cgroupPath: "+empty)
	})
}

// TestKilledAgentSockets is the same for what is translated in connect().
func TestKilledAgentSockets(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) { testKilled(t, "") })
}

func testKilled(t *testing.T, settings string) {
	here, outside := nodeNetwork(t)
	cfg := writeObjects(t, podObjects)
	write(t, "/etc/patchbay/config.yaml", nodeConfig+settings+"\n")
	agent := agentProcess(t, cfg)
	server := addPod(t, cfg, "server", netip.MustParseAddr("10.244.0.5"))
	client := addPod(t, cfg, "client", netip.MustParseAddr("10.244.0.6"))
	server.echo(t, 8080)

	length, period := 4*time.Second, 700*time.Millisecond
	if os.Getenv("PATCHBAY_LONG") != "" {
		length, period = 30*time.Second, 5*time.Second
	}
	inside, other := &load{}, &load{}
	from, address := outside, "192.168.1.100:80"
	if settings == "" {
		from, address = here, "10.96.0.20:80" // a process of this node's cgroup can't be outside
	}
	netlab.WaitFor(t, 10*time.Second, "the address is answered for", func() error {
		return from.Do(func() error { return exchange(address) })
	})
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var running sync.WaitGroup
	for range 4 { // with 8 ms each: 1,000 a second in all
		running.Go(func() { _ = other.run(ctx, from, address, 8*time.Millisecond) })
		running.Go(func() { _ = inside.run(ctx, client.Namespace, "10.96.0.20:80", 8*time.Millisecond) })
	}
	kills := 0
	for ; ctx.Err() == nil; kills++ {
		netlab.WaitFor(t, 2*period, "time for the next kill", after(ctx, period))
		kill(agent)
		early := time.Duration(kills%20) * 7 * time.Millisecond // and once more while it starts
		agent = startProcess(t)
		netlab.WaitFor(t, time.Second, "a moment of its start", after(ctx, early))
		kill(agent)
		agent = agentProcess(t, cfg)
	}
	running.Wait()
	for name, l := range map[string]*load{"pod to ClusterIP": inside, "to " + address: other} {
		t.Logf("%s: %d connections in %v, agent killed %d times", name, l.done.Load(), length, 2*kills)
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d of %d connections failed, first: %v", name, l.failed.Load(), l.done.Load(), *l.first.Load())
		}
	}
}

// after returns a condition that holds once the time is over, or ctx.
func after(ctx context.Context, d time.Duration) func() error {
	due := time.Now().Add(d)
	return func() error {
		if ctx.Err() == nil && time.Now().Before(due) {
			return errors.New("not yet")
		}
		return nil
	}
}
