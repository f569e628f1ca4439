// SPDX-License-Identifier: Apache-2.0

package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// raise raises a site with nodes that are ready, in the test's own namespaces.
func raise(t *testing.T, nodes ...string) *Site {
	t.Helper()
	bin := t.TempDir()
	Build(t, bin)
	s := New(t, bin, t.TempDir())
	s.StartDevice()
	for _, name := range nodes {
		s.StartNode(name)
	}
	for _, n := range s.Nodes {
		n.WaitReady()
	}
	return s
}

// runtime runs the site's runtime inside a node and reads its answer.
func (n *Node) runtime(t *testing.T, answer any, args ...string) {
	t.Helper()
	cmd := n.Command(n.site.Program("runtime"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		t.Fatalf("runtime %v: %v: %s%s", args, err, out, &stderr)
	}
}

// leaks returns what pods that are gone left on a node.
func (n *Node) leaks() error {
	out, err := n.Command("sh", "-c", `ip -o link | grep -oE 'pb[0-9a-f]{11}'; ip route show proto 80 | grep -E 'dev pb[0-9a-f]{11}'
		ip neigh show nud permanent | grep -E 'dev pb[0-9a-f]{11}'; true`).Output()
	if err != nil {
		return err
	}
	if len(out) > 0 {
		return fmt.Errorf("links, routes or neighbours: %s", out)
	}
	for _, noun := range []string{"pods", "leases"} {
		out, err := n.Command(n.site.Program("patchbayctl"), noun, "-o", "json").Output()
		if err != nil {
			return fmt.Errorf("patchbayctl %s: %w", noun, err)
		}
		if left := active(out); left > 0 {
			return fmt.Errorf("%d %s: %s", left, noun, out)
		}
	}
	return nil
}

// active counts the objects of a list that aren't cooling down.
func active(list []byte) int {
	var objects []map[string]any
	if err := json.Unmarshal(list, &objects); err != nil {
		return 1
	}
	count := 0
	for _, o := range objects {
		if o["state"] != "cooling" {
			count++
		}
	}
	return count
}

// unrest kills the node's agent now and then, and starts it again as a supervisor
// does, until the test calls peace, which fails if that never happened.
func (n *Node) unrest(t *testing.T, every time.Duration) (peace func()) {
	stop, done, kills := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
				_ = n.agent.Signal(syscall.SIGKILL)
				_ = n.agent.Wait()
				kills++
				n.StartAgent()
			}
		}
	}()
	return func() {
		close(stop)
		<-done
		if t.Logf("agent of %s killed %d times", n.Name, kills); kills == 0 {
			t.Errorf("agent of %s was never killed", n.Name)
		}
	}
}

// TestLeaksAreSeen keeps the check of the tests below from passing whatever it sees.
func TestLeaksAreSeen(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		node := raise(t, "node-a").Nodes[0]
		canary := node.StartPod("canary", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done")
		if err := node.leaks(); err == nil || !strings.Contains(err.Error(), "links") {
			t.Errorf("with a pod: got %v, want its link", err)
		}
		for _, noun := range []string{"pods", "leases"} {
			out, err := node.Command(node.site.Program("patchbayctl"), noun, "-o", "json").Output()
			if err != nil || active(out) != 1 {
				t.Errorf("%s with a pod: %d active, %v: %s", noun, active(out), err, out)
			}
		}
		canary.Stop()
		netlab.WaitFor(t, 10*time.Second, "nothing left of the pod", node.leaks)
	})
}

func TestPodsComeAndGo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		kill     time.Duration
		attempts string
	}{
		{name: "agent up", attempts: "1"},
		{name: "agent killed", kill: 3 * time.Second, attempts: "50"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				const pods = 500
				node := raise(t, "node-a").Nodes[0]
				if tt.kill > 0 {
					peace := node.unrest(t, tt.kill)
					defer peace()
				}
				var got struct {
					Addresses, Errors []string
					Retries           int
				}
				node.runtime(t, &got, "churn", podConf, fmt.Sprint(pods), "16", tt.attempts)
				t.Logf("%d addresses, %d calls made again", len(got.Addresses), got.Retries)
				if len(got.Errors) > 0 {
					t.Errorf("%d calls failed: %v", len(got.Errors), got.Errors[:min(3, len(got.Errors))])
				}
				seen := map[string]bool{}
				for _, a := range got.Addresses {
					if seen[a] {
						t.Errorf("address %s was given twice", a)
					}
					seen[a] = true
				}
				if len(seen) != pods {
					t.Errorf("addresses: got %d, want %d", len(seen), pods)
				}
				netlab.WaitFor(t, 20*time.Second, "nothing left of the pods", node.leaks)
			})
		})
	}
}

// TestConnectionsOutliveAgents opens 1,000 connections a second, half of them to
// the LoadBalancer address from outside, half to the ClusterIP from a pod, while
// both agents are killed and started again.
func TestConnectionsOutliveAgents(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		s := raise(t, "node-a", "node-b")
		s.Nodes[0].StartController()
		service := Service{Name: "echo", ClusterIP: "10.96.0.40", Port: 80, TargetPort: 8080, LoadBalancer: true}
		echo := func(n *Node, name string) *Pod { return n.StartPod(name, s.Program("runtime"), "echo", ":8080") }
		s.Serve(service, echo(s.Nodes[0], "echo-1"), echo(s.Nodes[1], "echo-2"))
		vip := s.LoadBalancerIP(service).String() + ":80"
		s.Nodes[0].StartPod("client", "sleep", "infinity")
		outside := s.Device.Adopt(t, "client", s.Client)
		s.Client.Sysctl(t, "net/ipv4/ip_local_port_range", "1024 65535")
		type client struct {
			node           *netlab.Node
			netns, address string
		}
		clients := []client{{s.Device, outside, vip}, {s.Nodes[0].Node, "/run/netns/client", service.ClusterIP + ":80"}}
		run := func(c client, rate, seconds string) (result struct {
			Done, Failed, Slow int
			First              string
		}) {
			cmd := c.node.Command("nsenter", "--net="+c.netns, s.Program("runtime"), "load", rate, seconds, c.address)
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &result)
			}
			if err != nil {
				t.Errorf("load on %s: %v", c.address, err)
			}
			return result
		}
		for _, c := range clients {
			netlab.WaitFor(t, 20*time.Second, "an answer from "+c.address, func() error {
				if r := run(c, "1", "1"); r.Failed > 0 {
					return fmt.Errorf("%s", r.First)
				}
				return nil
			})
		}
		var peace []func()
		for _, n := range s.Nodes {
			peace = append(peace, n.unrest(t, 5*time.Second))
		}
		var all sync.WaitGroup
		for _, c := range clients {
			all.Go(func() {
				got := run(c, "500", "30")
				t.Logf("%s: %+v", c.address, got)
				if got.Done != 15000 || got.Failed > 0 {
					t.Errorf("%s: %d of %d failed, first %s", c.address, got.Failed, got.Done, got.First)
				}
			})
		}
		all.Wait()
		for _, f := range peace {
			f()
		}
	})
}

// never is a system call that no thread of the plugin gets to.
const never = 60000

// TestPluginKilledAnywhere kills the plugin at a system call of ADD, and of DEL,
// makes the same call again, and looks for what is left. KILL_STEP=1 tries every
// call, more leave some out.
func TestPluginKilledAnywhere(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		node := raise(t, "node-a").Nodes[0]
		step := 29
		if text := os.Getenv("KILL_STEP"); text != "" {
			if _, err := fmt.Sscan(text, &step); err != nil {
				t.Fatal(err)
			}
		}
		for _, verb := range []string{"ADD", "DEL"} {
			calls := node.killAt(t, verb, never)
			for at := 1; at <= calls; at += step {
				node.killAt(t, verb, at)
			}
			t.Logf("%s killed at every %d. of %d system calls", verb, step, calls)
		}
		netlab.WaitFor(t, 20*time.Second, "nothing left of the pods", node.leaks)
	})
}

// killAt adds and deletes a pod; one of the two is first killed at its nth system
// call, and then made again. It returns how many calls there were to be killed at.
func (n *Node) killAt(t *testing.T, verb string, at int) int {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`set -e
conf=%s/conf
export CNI_CONTAINERID=victim-%s-%d CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=victim' CNI_NETNS=/run/netns/victim
ip netns add victim
call() { CNI_COMMAND=$1 /opt/cni/bin/patchbay <$conf; }
[ %s = ADD ] || call ADD
CNI_COMMAND=%s strace -f -qq -o %s/trace -e inject=all:signal=KILL:when=%d /opt/cni/bin/patchbay <$conf || true
call %s
[ %s = DEL ] || call DEL
ip netns del victim`, dir, verb, at, verb, verb, dir, at, verb, verb)
	if err := os.WriteFile(filepath.Join(dir, "conf"), n.pluginConf(t), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := n.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s killed at system call %d: %v: %s", verb, at, err, out)
	}
	trace, err := os.ReadFile(filepath.Join(dir, "trace"))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return mostCalls(string(trace))
}

// mostCalls returns how many system calls the busiest thread of a trace made:
// strace counts each thread's own.
func mostCalls(trace string) int {
	calls, most := map[string]int{}, 0
	for line := range strings.Lines(trace) {
		thread, what, _ := strings.Cut(line, " ")
		if strings.Contains(what, "(") {
			calls[thread]++
			most = max(most, calls[thread])
		}
	}
	return most
}

// pluginConf is what libcni hands the first plugin of the node's configuration list.
func (n *Node) pluginConf(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(n.Path(podConf))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
	out, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
