// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// root holds a bench's files; it is on a file system of the confinement's own.
const root = "/var/tmp/bench"

// lab is the netlab.TB of a bench, and where its programs are. There is nothing
// to clean up: all ends with the first process of the confinement, which this is.
type lab struct {
	bin string
}

func newLab(bin string) *lab { return &lab{bin: bin} }

// Helper, Name, Cleanup and Logf complete netlab.TB.
func (l *lab) Helper()        {}
func (l *lab) Name() string   { return "bench" }
func (l *lab) Cleanup(func()) {}
func (l *lab) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// Fatalf says what went wrong and ends the bench.
func (l *lab) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "FAIL "+format+"\n", args...)
	os.Exit(1)
}

// program returns the path of a program built with the bench.
func (l *lab) program(name string) string { return filepath.Join(l.bin, name) }

// site raises a device and a number of nodes with their agents.
func (l *lab) site(nodes int) *site.Site {
	s := site.New(l, l.bin, root)
	s.StartDevice()
	for i := range nodes {
		s.StartNode(fmt.Sprintf("node-%c", 'a'+i))
	}
	for _, n := range s.Nodes {
		n.WaitReady()
	}
	return s
}

// wire raises two nodes without Patchbay, joined by a veth, and an echo server on
// one. It returns the other and the server's address.
func (l *lab) wire() (client *netlab.Node, address string) {
	client, server := netlab.StartNode(l, "wired"), netlab.StartNode(l, "peer")
	netlab.Wire(l, client.Net, "eth0", server.Net, "eth0")
	client.Net.Addr(l, "eth0", "10.9.0.1/24")
	server.Net.Addr(l, "eth0", "10.9.0.2/24")
	server.Start(l, netlab.Spec{Args: []string{l.program("bench"), "worker", "echo", "0", ":8080"}})
	address = "10.9.0.2:8080"
	netlab.WaitFor(l, 10*time.Second, "the echo server", func() error {
		return client.Command(l.program("bench"), "worker", "connect", "1", "tcp", address).Run()
	})
	return client, address
}

// worker runs this program inside a node, in the network namespace of the given
// path there if any, and reads its answer.
func (l *lab) worker(node *netlab.Node, netns string, answer any, args ...string) {
	exe, err := os.Executable()
	if err != nil {
		l.Fatalf("worker: %v", err)
	}
	command := append([]string{exe, "worker"}, args...)
	if netns != "" {
		command = append([]string{"nsenter", "--net=" + netns}, command...)
	}
	cmd := node.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		l.Fatalf("worker %v: %v", args, err)
	}
	if err := json.Unmarshal(out, answer); err != nil {
		l.Fatalf("worker %v: answer %q: %v", args, out, err)
	}
}
