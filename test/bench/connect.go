// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// The calls of a round, and how many rounds the median is of.
const (
	udpCalls = 200_000
	tcpCalls = 2_000
	rounds   = 7
)

// measureConnect compares the CPU time of connect() to a ClusterIP, in a pod, with
// that to an address over a bare veth, on a node without Patchbay.
func measureConnect(l *lab) []figure {
	s := l.site(1)
	node := s.Nodes[0]
	service := site.Service{Name: "echo", ClusterIP: "10.96.0.40", Port: 80, TargetPort: 8080}
	exe := l.program("bench")
	s.Serve(service, node.StartPod("server", exe, "worker", "echo", "0", ":8080"))
	node.StartPod("client", "sleep", "infinity")
	virtual := fmt.Sprintf("%s:%d", service.ClusterIP, service.Port)
	netlab.WaitFor(l, 10*time.Second, "the Service", func() error {
		return node.Command("nsenter", "--net=/run/netns/client", exe, "worker", "connect", "1", "tcp", virtual).Run()
	})
	wired, address := l.wire()
	measure := func(name, network string, calls int) figure {
		var own, bare []float64
		for range rounds {
			var ns float64
			l.worker(wired, "", &ns, "connect", strconv.Itoa(calls), network, address)
			bare = append(bare, ns)
			l.worker(node.Node, "/run/netns/client", &ns, "connect", strconv.Itoa(calls), network, virtual)
			own = append(own, ns)
		}
		return figure{name, median(own), "ns", "no hooks", median(bare)}
	}
	return []figure{measure("connect-udp", "udp", udpCalls), measure("connect-tcp", "tcp", tcpCalls)}
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// connectJob connects so many times: NETWORK ADDRESS; by UDP one socket again and
// again, by TCP a socket each. It returns the CPU time of one in ns: the thread's
// own, so that others don't count.
func connectJob(count int, args []string) (any, error) {
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	call := connectTCP
	if args[0] == "udp" {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		call = func(to unix.Sockaddr) error { return unix.Connect(fd, to) }
	}
	address := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	start := threadTime()
	for range count {
		if err := call(address); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", to, err)
		}
	}
	return float64(threadTime()-start) / float64(count), nil
}

// connectTCP connects a socket and resets it, so that no port waits.
func connectTCP(to unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	return unix.Connect(fd, to)
}

// threadTime is the CPU time that the calling thread has used.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
