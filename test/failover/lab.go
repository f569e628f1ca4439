// SPDX-License-Identifier: Apache-2.0

// Package failover raises a cluster of one to three nodes on two switches, with
// clients outside, breaks it in every way that it must outlive, and judges what
// the clients and the wire saw of it: which requests were lost and for how long,
// and that never two nodes answered for one address.
//
//	lab := failover.New(t, bin, dir, 3)
//	trial := lab.Try(failover.Faults()[0], 0, false)
package failover

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// tick is the time between two requests of one stream.
const tick = 10 * time.Millisecond

// The networks: nodes have .10 and up on both switches, the router is .254.
const (
	gateway = "172.31.0.1"
	router4 = "192.168.50.254"
	router6 = "fd00:50::254"
)

const poolYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: services}
spec: {use: LoadBalancer, ranges: [{first: 192.168.50.100, last: 192.168.50.199}, {first: "fd00:50::100", last: "fd00:50::199"}]}
`

// Lab is the cluster and what is around it.
type Lab struct {
	*site.Site
	tb netlab.TB

	Internal, External *Segment
	// Services has one for each node, whose addresses are that node's while all
	// are well.
	Services []Service
	Observer *Observer

	dir      string
	machines []*Machine
	// client is on the external segment; far is behind a router there.
	client, far *netlab.Namespace
	others      []*netlab.Namespace // kept open: a namespace that nobody holds is gone
	mu          sync.Mutex
}

// Service is a Service and its addresses, one of each family.
type Service struct {
	site.Service
	V4, V6 netip.Addr
}

// Addrs are both addresses.
func (s Service) Addrs() []netip.Addr { return []netip.Addr{s.V4, s.V6} }

// Machine is a node of the lab with its ports at the switches.
type Machine struct {
	*site.Node
	Name               string
	internal, external string // ports
	mac                [6]byte
	lab                *Lab

	// What it is to be like: its groups at the switches, 0 with the clients.
	inside, outside    int
	noCarrier, stopped bool
	// What it is like.
	carrier, frozen bool
	silent          bool   // its agent was stopped or ended in this sequence
	logged          int    // the size of its log when its agent was last started again
	reached         []span // guarded by the lab's mu
}

// New raises a lab with so many nodes and waits until every address is answered
// by its node. Programs are taken from bin; dir is for objects and logs.
func New(tb netlab.TB, bin, dir string, nodes int) *Lab {
	tb.Helper()
	l := &Lab{Site: site.New(tb, bin, dir), tb: tb, dir: dir, Internal: NewSegment(tb), External: NewSegment(tb)}
	gw := l.space()
	l.Internal.Join(tb, gw, "eth0")
	gw.Addr(tb, "eth0", gateway+"/24")
	l.client = netlab.New(tb)
	l.External.Fixed(l.External.Join(tb, l.client, "eth0"))
	l.client.Addr(tb, "eth0", "192.168.50.50/24")
	l.client.Addr(tb, "eth0", "fd00:50::50/64")
	l.raiseRouter()
	l.Declare("pools", poolYAML)
	for i := range nodes {
		l.raiseMachine(fmt.Sprintf("node-%c", 'a'+i), i)
	}
	for _, m := range l.machines {
		m.WaitReady()
	}
	l.machines[0].StartController()
	l.change(func() {})
	l.serve()
	l.Observer = newObserver(l)
	l.WaitSettled(60 * time.Second)
	return l
}

// raiseRouter makes the router on the external segment and the client behind it.
func (l *Lab) raiseRouter() {
	router := l.space()
	l.far = netlab.New(l.tb)
	l.External.Fixed(l.External.Join(l.tb, router, "eth0"))
	netlab.Wire(l.tb, router, "eth1", l.far, "eth0")
	router.Sysctl(l.tb, "net/ipv4/ip_forward", "1")
	router.Sysctl(l.tb, "net/ipv6/conf/all/forwarding", "1")
	router.Addr(l.tb, "eth0", router4+"/24")
	router.Addr(l.tb, "eth0", router6+"/64")
	router.Addr(l.tb, "eth1", "10.60.0.1/24")
	router.Addr(l.tb, "eth1", "fd00:60::1/64")
	l.far.Addr(l.tb, "eth0", "10.60.0.2/24")
	l.far.Addr(l.tb, "eth0", "fd00:60::2/64")
	l.far.Route(l.tb, "default", netip.MustParseAddr("10.60.0.1"), "eth0")
	l.far.Route(l.tb, "default", netip.MustParseAddr("fd00:60::1"), "eth0")
}

// space makes a network namespace that lasts as long as the lab.
func (l *Lab) space() *netlab.Namespace {
	l.tb.Helper()
	ns := netlab.New(l.tb)
	l.others = append(l.others, ns)
	return ns
}

// raiseMachine raises a node with a leg on each switch.
func (l *Lab) raiseMachine(name string, i int) {
	m := &Machine{Name: name, lab: l, carrier: true}
	machine := netlab.StartNode(l.tb, name)
	m.internal = l.Internal.Join(l.tb, machine.Net, "eth0")
	m.external = l.External.Join(l.tb, machine.Net, "eth1")
	at := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, 10+i)) }
	internal, external := at("172.31.0.%d"), at("192.168.50.%d")
	internal6, external6 := at("fd00:31::%d"), at("fd00:50::%d")
	for addr, nic := range map[netip.Addr]string{internal: "eth0", internal6: "eth0", external: "eth1", external6: "eth1"} {
		bits := 24
		if addr.Is6() {
			bits = 64
		}
		machine.Net.Addr(l.tb, nic, netip.PrefixFrom(addr, bits).String())
	}
	machine.Net.Route(l.tb, "default", netip.MustParseAddr(gateway), "eth0")
	m.mac = machine.Net.MAC(l.tb, "eth1")
	m.Node = l.Enroll(machine, internal, external, internal6, external6)
	l.machines = append(l.machines, m)
}

// serve declares a Service for each node, answered by a pod on every node.
func (l *Lab) serve() {
	var pods []*site.Pod
	for i, m := range l.machines {
		pods = append(pods, m.StartPod(fmt.Sprintf("echo-%d", i), l.Program("runtime"), "echo", ":8080"))
	}
	used := map[netip.Addr]bool{}
	for i, m := range l.machines {
		s := Service{V4: l.addressOf(m.Name, "192.168.50.%d", used), V6: l.addressOf(m.Name, "fd00:50::%d", used)}
		s.Service = site.Service{
			Name: fmt.Sprintf("echo-%d", i), ClusterIP: fmt.Sprintf("10.96.0.%d", 40+i), ClusterIP6: fmt.Sprintf("fd00:10:96::%d", 40+i),
			Port: 80, TargetPort: 8080, LoadBalancer: true, Addresses: s.Addrs(),
		}
		l.Serve(s.Service, pods...)
		l.Services = append(l.Services, s)
	}
}

// addressOf returns an address of the pool that is the node's while all are well.
func (l *Lab) addressOf(node, format string, used map[netip.Addr]bool) netip.Addr {
	var names []string
	for _, m := range l.machines {
		names = append(names, m.Name)
	}
	for i := 100; i < 200; i++ {
		addr := netip.MustParseAddr(fmt.Sprintf(format, i))
		if !used[addr] && announce.Owner(addr, names) == node {
			used[addr] = true
			return addr
		}
	}
	l.tb.Fatalf("no address of the pool is %s's", node)
	return netip.Addr{}
}

// owner returns the node of a MAC address.
func (l *Lab) owner(mac [6]byte) string {
	for _, m := range l.machines {
		if m.mac == mac {
			return m.Name
		}
	}
	return fmt.Sprintf("%x", mac[:])
}

// WaitSettled waits until every address is answered for by the node that has it
// while all are well, and the clients reach it.
func (l *Lab) WaitSettled(patience time.Duration) {
	l.tb.Helper()
	netlab.WaitFor(l.tb, patience, "every address with its own node", func() error {
		var wrong []string
		for i, s := range l.Services {
			for _, addr := range s.Addrs() {
				if by := l.Observer.Answering(addr); by != l.machines[i].Name {
					wrong = append(wrong, fmt.Sprintf("%s by %q, not %s", addr, by, l.machines[i].Name))
				}
			}
		}
		if len(wrong) > 0 {
			return fmt.Errorf("answered: %s", strings.Join(wrong, ", "))
		}
		return nil
	})
}

// LoseSource takes the folders of objects and of status away, as when no API
// server can be reached.
func (l *Lab) LoseSource() (restore func()) {
	move := func(from, to string) {
		for _, folder := range []string{"objects", "status"} {
			if err := os.Rename(filepath.Join(l.dir, folder+from), filepath.Join(l.dir, folder+to)); err != nil {
				l.tb.Fatalf("move the folders of objects: %v", err)
			}
		}
	}
	move("", ".away")
	return func() { move(".away", "") }
}

// End ends all nodes.
func (l *Lab) End() {
	for _, m := range l.machines {
		m.Kill()
	}
}

// Tail returns the ends of the programs' logs, for failures.
func (l *Lab) Tail(size int) string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(l.Logs(), "*.log"))
	for _, path := range logs {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			fmt.Fprintf(&b, "--- end of %s\n%s", filepath.Base(path), text[max(0, len(text)-size):])
		}
	}
	return b.String()
}
