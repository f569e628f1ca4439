// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// exchanges is how many requests and answers a round has.
const exchanges = 20_000

// measurePacket compares the time of a small request and its answer over TCP:
// between pods of one node and a bare veth, between nodes and the nodes
// themselves, and from outside through the LoadBalancer address and the node.
func measurePacket(l *lab) []figure {
	s := l.site(2)
	s.Nodes[0].StartController()
	exe := l.program("bench")
	near := s.Nodes[0].StartPod("near", exe, "worker", "echo", "0", ":8080")
	far := s.Nodes[1].StartPod("far", exe, "worker", "echo", "0", ":8080")
	s.Nodes[0].StartPod("client", "sleep", "infinity")
	service := site.Service{Name: "echo", ClusterIP: "10.96.0.40", Port: 80, TargetPort: 8080, LoadBalancer: true}
	s.Serve(service, near, far)

	wired, over := l.wire()
	s.Nodes[1].Start(l, netlab.Spec{Args: []string{exe, "worker", "echo", "0", ":8080"}})

	at := func(a netip.Addr) string { return netip.AddrPortFrom(a, 8080).String() }
	pod := "/run/netns/client"
	node := s.Nodes[0].Node
	wire := l.roundTrip(wired, "", over)
	nodes := l.roundTrip(node, "", at(s.Nodes[1].Internal))
	figures := []figure{
		{"packet-one-node", l.roundTrip(node, pod, at(near.Addr)), "us", "veth", wire},
		{"packet-two-nodes", l.roundTrip(node, pod, at(far.Addr)), "us", "node to node", nodes},
	}
	vip := fmt.Sprintf("%s:80", s.LoadBalancerIP(service))
	outside := l.roundTrip(s.Device, s.Device.Adopt(l, "client", s.Client), at(s.Nodes[1].External))
	return append(figures, figure{"packet-loadbalancer", l.roundTrip(s.Device, "/run/netns/client", vip), "us", "client to node", outside})
}

// roundTrip returns the median time in µs of a request and its answer.
func (l *lab) roundTrip(node *netlab.Node, netns, to string) float64 {
	var took []float64
	for range rounds {
		var p50 time.Duration
		l.worker(node, netns, &p50, "ping-pong", strconv.Itoa(exchanges), to)
		took = append(took, float64(p50)/float64(time.Microsecond))
	}
	return median(took)
}

// pingPongJob sends a byte and waits for it to come back: ADDRESS. It returns the median time.
func pingPongJob(count int, args []string) (any, error) {
	var conn net.Conn
	err := netlab.Poll(10*time.Second, func() (err error) {
		conn, err = net.DialTimeout("tcp", args[0], time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	took, b := make([]time.Duration, count), make([]byte, 1)
	for i := range took {
		start := time.Now()
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, err
		}
		took[i] = time.Since(start)
	}
	return percentile(took, 50), nil
}

// echoJob sends back what it gets, until it is killed: ADDRESS.
func echoJob(_ int, args []string) (any, error) {
	listener, err := net.Listen("tcp", args[0])
	if err != nil {
		return nil, err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil, err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // the client resets when it has enough
		}()
	}
}
