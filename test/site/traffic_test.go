// SPDX-License-Identifier: Apache-2.0

package site

import (
	"encoding/json"
	"errors"
	"fmt"
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

// client opens connections to an address from a network namespace that a node knows.
type client struct {
	node           *netlab.Node
	netns, address string
}

// loaded is what became of a client's connections.
type loaded struct {
	Done, Failed, Slow int
	First              string
}

// load opens so many connections a second for so many seconds.
func (c client) load(s *Site, rate, seconds int) (result loaded, err error) {
	cmd := c.node.Command("nsenter", "--net="+c.netns, s.Program("runtime"), "load", fmt.Sprint(rate), fmt.Sprint(seconds), c.address)
	out, err := cmd.Output()
	if err != nil {
		return loaded{}, fmt.Errorf("load on %s: %w", c.address, err)
	}
	return result, json.Unmarshal(out, &result)
}

// echoSite raises two nodes with an echo server on each, and returns a client
// outside for the Service's LoadBalancer address and one in a pod for its ClusterIP.
func echoSite(t *testing.T) (*Site, []client) {
	t.Helper()
	s := raise(t, "node-a", "node-b")
	s.Nodes[0].StartController()
	service := Service{Name: "echo", ClusterIP: "10.96.0.40", Port: 80, TargetPort: 8080, LoadBalancer: true}
	echo := func(n *Node, name string) *Pod { return n.StartPod(name, s.Program("runtime"), "echo", ":8080") }
	s.Serve(service, echo(s.Nodes[0], "echo-1"), echo(s.Nodes[1], "echo-2"))
	inside := s.Nodes[0].StartPod("client", "sleep", "infinity")
	for _, ns := range []*netlab.Namespace{s.Client, inside.Net()} {
		ns.Sysctl(t, "net/ipv4/ip_local_port_range", "1024 65535") // those that wait are many
	}
	clients := []client{
		{s.Device, s.Device.Adopt(t, "client", s.Client), s.LoadBalancerIP(service).String() + ":80"},
		{s.Nodes[0].Node, "/run/netns/client", service.ClusterIP + ":80"},
	}
	for _, c := range clients {
		netlab.WaitFor(t, 20*time.Second, "an answer from "+c.address, func() error {
			r, err := c.load(s, 1, 1)
			if err == nil && r.Failed > 0 {
				err = errors.New(r.First)
			}
			return err
		})
	}
	return s, clients
}

// TestConnectionsOutliveAgents opens 1,000 connections a second for half a minute,
// half of them to the LoadBalancer address from outside, half to the ClusterIP
// from a pod, served on both nodes, while both agents are killed and started again.
func TestConnectionsOutliveAgents(t *testing.T) {
	const rate, seconds = 500, 30
	netlab.Isolate(t, func(t *testing.T) {
		s, clients := echoSite(t)
		for _, n := range s.Nodes {
			defer n.unrest(t, 5*time.Second)()
		}
		var all sync.WaitGroup
		for _, c := range clients {
			all.Go(func() {
				got, err := c.load(s, rate, seconds)
				t.Logf("%s: %+v", c.address, got)
				if err != nil || got.Done != rate*seconds || got.Failed > 0 {
					t.Errorf("%s: %d of %d connections failed, first: %s; %v", c.address, got.Failed, got.Done, got.First, err)
				}
			})
		}
		all.Wait()
	})
}
