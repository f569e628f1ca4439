// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

const mebi = 1 << 20

// settled is when a program that has started is taken to be idle.
const settled = 10 * time.Second

// measureFootprint compares the agent's memory on an idle cluster of two nodes
// with that of a program that only links the Kubernetes client and watches
// nothing, and the CNI binary's size with the reference's two.
func measureFootprint(l *lab) []figure {
	s := l.site(2)
	peer := s.Nodes[1].Start(l, netlab.Spec{Args: []string{l.program("peers/client")}})
	time.Sleep(settled)
	agent, client := resident(l, s.Nodes[0].Agent().PID()), resident(l, peer.PID())
	return []figure{
		{"footprint-agent-rss", agent, "MiB", "empty client-go", client},
		{"footprint-cni-binary", size(l, "patchbay"), "MiB", "ptp+host-local", size(l, "peers/ptp") + size(l, "peers/host-local")},
		{"footprint-agent-binary", size(l, "patchbayd"), "MiB", "empty client-go", size(l, "peers/client")},
	}
}

// resident returns a process's resident memory in MiB.
func resident(l *lab, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		l.Fatalf("memory: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kibi, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				l.Fatalf("memory: %v", err)
			}
			return kibi / 1024
		}
	}
	l.Fatalf("memory: pid %d has none", pid)
	return 0
}

// size returns the size of a program in MiB.
func size(l *lab, name string) float64 {
	info, err := os.Stat(l.program(name))
	if err != nil {
		l.Fatalf("size: %v", err)
	}
	return float64(info.Size()) / mebi
}
