// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// When things happen, in requests begun.
const (
	addAt  = requests * 9 / 20 // a pod is started
	settle = 15                // requests begun before a change of endpoints has reached every node
)

// scene is all that is up.
type scene struct {
	*stage
	*site.Site
	web   map[string]*site.Pod
	vip   netip.Addr
	owner *site.Node // who announces vip
}

// databaseService and webService are the two tiers.
func databaseService() site.Service {
	return site.Service{Name: "database", ClusterIP: "10.96.0.20", Port: 6379, TargetPort: 6379}
}

func webService() site.Service {
	return site.Service{Name: "web", ClusterIP: "10.96.0.30", Port: 80, TargetPort: 8080, LoadBalancer: true}
}

// play runs the demo inside the confinement and returns its exit code.
func play() int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	st := &stage{start: time.Now()}
	s := &scene{stage: st, Site: site.New(st, filepath.Dir(exe), root), web: map[string]*site.Pod{}}
	s.raise()
	s.deploy()
	if os.Getenv("PB_BREAK") == "1" {
		s.sabotage()
	}
	w := s.watch()
	results, phases := s.run()
	s.draw(results)
	s.judge(results, phases)
	s.judgeReplies(w, len(results))
	s.judgeFromOutside()
	if os.Getenv("KEEP") == "1" {
		s.keep()
	}
	fmt.Printf("PASS in %.0f s\n", time.Since(s.start).Seconds())
	return 0
}

// raise raises the device, the nodes on its switches, and their agents.
func (s *scene) raise() {
	s.step("device: two ports; patchbayd raises the internal and the external switch")
	s.StartDevice()
	s.step("nodes: patchbay-vswitch plugs each into both switches; patchbayd starts")
	s.Serve(databaseService())
	s.Serve(webService())
	for _, name := range []string{"node-a", "node-b"} {
		s.StartNode(name)
	}
	s.Nodes[0].StartController()
	for _, n := range s.Nodes {
		n.WaitReady()
	}
}

// deploy runs the application and waits until it answers outside.
func (s *scene) deploy() {
	s.step("pods: the database, and three of the web tier, by CNI")
	database := s.Nodes[1].StartPod("database-1", "redis-server", "--port", "6379", "--bind", "0.0.0.0",
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp")
	s.Serve(databaseService(), database)
	for i, name := range []string{"web-1", "web-2", "web-3"} {
		s.web[name] = s.startWeb(s.Nodes[i%2], name)
	}
	s.publish()
	s.vip = s.LoadBalancerIP(webService())
	netlab.WaitFor(s, 20*time.Second, "an answer from "+s.vip.String(), func() error {
		return site.Answers(s.Client, fmt.Sprintf("http://%s/", s.vip))
	})
	s.owner = s.announcer()
	s.step("Service web has %s, announced by %s", s.vip, s.owner.Name)
}

// startWeb starts a pod of the web tier and waits for its readiness as kubelet does, from its node.
func (s *scene) startWeb(n *site.Node, name string) *site.Pod {
	p := n.StartPod(name, s.Program("web"), "-listen", ":8080", "-database", databaseService().ClusterIP+":6379", "-lame-duck", "1s")
	netlab.WaitFor(s, 20*time.Second, "readiness of "+name, func() error {
		return site.Answers(n.Net, fmt.Sprintf("http://%s:8080/ready", p.Addr))
	})
	return p
}

// publish declares the web tier's endpoints as they are now.
func (s *scene) publish() { s.Serve(webService(), slices.Collect(maps.Values(s.web))...) }

// run sends the requests; meanwhile one pod is added and one goes, its endpoint
// first, as Kubernetes does.
func (s *scene) run() ([]served, []phase) {
	s.step("requests: %d from outside, a connection each; web-4 comes, web-2 goes", requests)
	l := startLoad(s.Client, s.vip)
	l.waitBegun(s.stage, addAt)
	added := s.startWeb(s.Nodes[1], "web-4")
	before := phase{name: "before the change", to: l.count(), pods: []string{"web-2"}}

	s.web["web-4"] = added
	s.publish()
	l.waitBegun(s.stage, before.to+settle)
	gone := s.web["web-2"]
	delete(s.web, "web-2")
	s.publish()
	after := phase{name: "after the change", from: l.count() + settle, to: requests, pods: []string{"web-4"}}
	gone.Stop()
	whole := phase{name: "in all", to: requests, pods: []string{"web-1", "web-3"}}
	return l.finish(), []phase{whole, before, after}
}

// keep leaves all up until the demo is interrupted.
func (s *scene) keep() {
	fmt.Println("\nkept up; interrupt to take it down. Look inside with")
	for _, n := range []*netlab.Node{s.Device, s.Nodes[0].Node, s.Nodes[1].Node} {
		fmt.Printf("  nsenter -a -t $(pgrep -nx demo) nsenter -a -t %d   # %s\n", n.PID(), n.Name)
	}
	select {}
}
