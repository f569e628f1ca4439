// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// When things happen, in requests begun.
const (
	addAt  = 100 // a pod is started
	settle = 15  // requests begun before a change of endpoints has reached every node
)

// scene is all that is up.
type scene struct {
	*stage
	device *device
	nodes  []*node
	web    map[string]*pod
	vip    netip.Addr
	owner  *node // who announces vip
}

// play runs the demo inside the confinement and returns its exit code.
func play() int {
	s, err := newStage()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	sc := &scene{stage: s, web: map[string]*pod{}}
	sc.raise()
	sc.deploy()
	if os.Getenv("PB_BREAK") == "1" {
		sc.sabotage()
	}
	w := sc.watch()
	results, phases := sc.run()
	sc.draw(results)
	sc.judge(results, phases)
	sc.judgeReplies(w, len(results))
	sc.judgeFromOutside()
	if os.Getenv("KEEP") == "1" {
		sc.keep()
	}
	fmt.Printf("PASS in %.0f s\n", time.Since(s.start).Seconds())
	return 0
}

// raise raises the device, the nodes on its switches, and their agents.
func (s *scene) raise() {
	s.write(objectsDir+"/pools.yaml", poolsYAML)
	s.write(objectsDir+"/services.yaml", servicesYAML)
	publish(s.stage, "web", "http", 8080, nil)
	publish(s.stage, "database", "redis", 6379, nil)

	s.step("device: two ports; patchbayd raises the internal and the external switch")
	s.device = startDevice(s.stage)
	s.step("nodes: patchbay-vswitch plugs each into both switches; patchbayd starts")
	for i, name := range []string{"node-a", "node-b"} {
		s.nodes = append(s.nodes, startNode(s.stage, s.device, name, fmt.Sprintf("10.244.%d.0/24", i)))
	}
	s.nodes[0].Start(s, netlab.Spec{Args: []string{s.program("patchbay-controller")}, Log: s.log("controller.log")})
	for _, n := range s.nodes {
		n.waitReady(s.stage)
	}
}

// deploy runs the application and waits until it answers outside.
func (s *scene) deploy() {
	s.step("pods: the database, and three of the web tier, by CNI")
	db := startDatabase(s.stage, s.nodes[1], "database-1")
	publish(s.stage, "database", "redis", 6379, []*pod{db})
	for i, name := range []string{"web-1", "web-2", "web-3"} {
		s.web[name] = startWeb(s.stage, s.nodes[i%2], name)
	}
	s.publishWeb()
	netlab.WaitFor(s, 15*time.Second, "an address for Service web", func() (err error) {
		s.vip, err = loadBalancerIP()
		return err
	})
	one := load{url: fmt.Sprintf("http://%s/", s.vip)}
	one.client.Timeout = time.Second
	one.client.Transport = transport(s.device.client)
	netlab.WaitFor(s, 20*time.Second, "an answer from "+s.vip.String(), func() error { return one.request().err })
	s.owner = s.announcer()
	s.step("Service web has %s, announced by %s", s.vip, s.owner.Name)
}

// publishWeb writes the endpoints of the web tier as they are now.
func (s *scene) publishWeb() {
	publish(s.stage, "web", "http", 8080, slices.Collect(maps.Values(s.web)))
}

// run sends the requests; meanwhile one pod is added and one goes, its endpoint
// first, as Kubernetes does.
func (s *scene) run() ([]served, []phase) {
	s.step("requests: %d from outside, a connection each; web-4 comes, web-2 goes", requests)
	l := startLoad(s.device.client, s.vip)
	l.waitBegun(s.stage, addAt)
	added := startWeb(s.stage, s.nodes[1], "web-4")
	before := phase{name: "before", to: l.count(), pods: []string{"web-1", "web-2", "web-3"}}

	s.web["web-4"] = added
	s.publishWeb()
	l.waitBegun(s.stage, before.to+settle)
	gone := s.web["web-2"]
	delete(s.web, "web-2")
	s.publishWeb()
	after := phase{name: "after", from: l.count() + settle, to: requests, pods: []string{"web-1", "web-3", "web-4"}}
	gone.stop(s.stage)
	return l.finish(), []phase{before, after}
}

// keep leaves all up until the demo is interrupted.
func (s *scene) keep() {
	fmt.Println("\nkept up; interrupt to take it down. Look inside with")
	for _, n := range append([]*netlab.Node{s.device.node}, s.nodes[0].Node, s.nodes[1].Node) {
		fmt.Printf("  nsenter -a -t $(pgrep -nx demo) nsenter -a -t %d   # %s\n", n.PID(), n.Name)
	}
	select {}
}
