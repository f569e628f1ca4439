// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWireCarriesTraffic(t *testing.T) {
	Require(t)
	for _, tt := range []struct{ name, a, b, dial string }{
		{name: "IPv4", a: "10.0.0.1/24", b: "10.0.0.2/24", dial: "10.0.0.2:80"},
		{name: "IPv6", a: "fd00::1/64", b: "fd00::2/64", dial: "[fd00::2]:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := New(t), New(t)
			Wire(t, a, "eth0", b, "eth1")
			a.Addr(t, "eth0", tt.a)
			b.Addr(t, "eth1", tt.b)
			dial(t, a, b, tt.dial)
		})
	}
}

// dial fails the test unless a client in one namespace reaches a listener in the other.
func dial(t *testing.T, client, server *Namespace, address string) {
	t.Helper()
	var listener net.Listener
	must(t, server.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }), "listen")
	defer listener.Close()
	must(t, client.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}), "dial")
}

func TestSwitchJoinsNamespaces(t *testing.T) {
	Require(t)
	sw, router := NewSwitch(t), New(t)
	hosts := []*Namespace{New(t), New(t), router}
	for i, ns := range hosts {
		sw.Join(t, ns, "eth0")
		ns.Addr(t, "eth0", fmt.Sprintf("10.0.0.%d/24", i+1))
	}
	router.Addr(t, "lo", "192.0.2.1/32")
	hosts[0].Route(t, "default", netip.MustParseAddr("10.0.0.3"), "eth0")
	dial(t, hosts[0], hosts[1], "10.0.0.2:80")
	dial(t, hosts[0], router, "192.0.2.1:80")
}

func TestDoComesBack(t *testing.T) {
	Require(t)
	ns := New(t)
	before, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err, "read link")
	wantErr := errors.New("from f")
	if err := ns.Do(func() error { return wantErr }); !errors.Is(err, wantErr) {
		t.Errorf("Do: got %v, want %v", err, wantErr)
	}
	if after, _ := os.Readlink("/proc/thread-self/ns/net"); after != before {
		t.Errorf("namespace after Do: got %s, want %s", after, before)
	}
}

func TestCaptureSeesBothWays(t *testing.T) {
	Require(t)
	a, b := New(t), New(t)
	Wire(t, a, "eth0", b, "eth0")
	a.Addr(t, "eth0", "10.0.0.1/24")
	b.Addr(t, "eth0", "10.0.0.2/24")
	capture := NewCapture(t, b, "eth0")
	dial(t, a, b, "10.0.0.2:80")
	for _, outgoing := range []bool{false, true} {
		WaitFor(t, time.Second, "captured frames", func() error {
			if capture.Count(func(f Frame) bool { return f.Outgoing == outgoing && f.Data[12] == 0x08 && f.Data[13] == 0 }) == 0 {
				return fmt.Errorf("no IPv4 frame with outgoing=%v", outgoing)
			}
			return nil
		})
	}
}

func TestNodeIsPrivate(t *testing.T) {
	Require(t)
	node := StartNode(t, "node-a")
	if got := strings.TrimSpace(node.Exec(t, "hostname")); got != "node-a" {
		t.Errorf("hostname: got %q, want node-a", got)
	}
	node.Exec(t, "sh", "-c", `set -e
		for d in /run /sys/fs/bpf /var/lib/patchbay /etc/cni /opt/cni; do echo x 2>/dev/null > $d/probe || mkdir $d/probe; done
		ip netns add inner; ip netns exec inner true
		test "$(cat /proc/self/cgroup | sed -n 's/^0:://p')" = /`)
	for _, dir := range append([]string{"/run", "/sys/fs/bpf"}, privateDirs...) {
		if _, err := os.Stat(filepath.Join(dir, "probe")); err == nil {
			t.Errorf("%s: the node's file is the machine's", dir)
		}
	}
	if _, err := os.Stat(node.Path("/run/probe")); err != nil {
		t.Errorf("path from outside: %v", err)
	}
}

func TestNodeAdoptsNamespace(t *testing.T) {
	Require(t)
	a, b := StartNode(t, "node-a"), StartNode(t, "node-b")
	path := a.Adopt(t, "b", b.Net)
	a.Exec(t, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth7", "netns", path)
	b.Exec(t, "ip", "link", "show", "eth7")
}

func TestNodeStartsAndStopsPrograms(t *testing.T) {
	Require(t)
	node := StartNode(t, "node-a")
	var log bytes.Buffer
	p := node.Start(t, Spec{Args: []string{"sh", "-c", "echo $GREETING; sed -n s/^0:://p /proc/self/cgroup; exec sleep 60"}, Env: []string{"GREETING=hello"}, Cgroup: "pods/a", Log: &log})
	WaitFor(t, 5*time.Second, "the program's cgroup", func() error {
		procs, err := os.ReadFile(filepath.Join(node.Cgroup, "pods/a/cgroup.procs"))
		if err == nil && !strings.Contains(string(procs), fmt.Sprintln(p.PID())) {
			err = fmt.Errorf("pid %d not in %q", p.PID(), procs)
		}
		return err
	})
	WaitFor(t, 5*time.Second, "sleep", func() error {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID())); string(comm) != "sleep\n" {
			return fmt.Errorf("runs %q", comm)
		}
		return nil
	})
	if err := p.Stop(5 * time.Second); err == nil {
		t.Error("stop: got no error, want the one of SIGTERM")
	}
	if want := "hello\n/pods/a\n"; log.String() != want {
		t.Errorf("log: got %q, want %q", &log, want)
	}
}

func TestKillEndsAllAndCgroupsGo(t *testing.T) {
	Require(t)
	var cgroup string
	var p *Process
	t.Run("node", func(t *testing.T) {
		node := StartNode(t, "node-a")
		cgroup = node.Cgroup
		p = node.Start(t, Spec{Args: []string{"sleep", "60"}, Cgroup: "deep/er"})
	})
	if err := p.Wait(); err == nil {
		t.Error("program of a killed node: got no error")
	}
	if _, err := os.Stat(cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup after the node's end: %v", err)
	}
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	Require(t)
	mount, err := CgroupMount()
	must(t, err, "find cgroup2")
	dead := []string{
		filepath.Join(mount, cgroupPrefix+"4194305-1-1"),                         // above pid_max's limit
		filepath.Join(mount, fmt.Sprintf("%s%d-1-1", cgroupPrefix, os.Getpid())), // a pid used again
	}
	for _, dir := range dead {
		must(t, os.MkdirAll(filepath.Join(dir, "pods/a"), 0o755), "make cgroup")
	}
	alive := NewCgroup(t)
	swept, err := Sweep()
	must(t, err, "sweep")
	for _, dir := range dead {
		if !slices.Contains(swept, dir) {
			t.Errorf("swept %v, want %s among them", swept, dir)
		}
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("cgroup of a living process: %v", err)
	}
}

func TestIsolate(t *testing.T) {
	Isolate(t, func(t *testing.T) {
		if os.Getpid() != 1 {
			t.Errorf("pid: got %d, want 1", os.Getpid())
		}
		must(t, os.WriteFile("/run/probe", nil, 0o644), "write to /run")
		must(t, os.WriteFile("/var/lib/patchbay/probe", nil, 0o644), "write to /var/lib/patchbay")
		must(t, os.Mkdir("/sys/fs/bpf/probe", 0o755), "make directory on bpffs")
		links, err := net.Interfaces()
		must(t, err, "list interfaces")
		for _, l := range links {
			if l.Name == "eth0" {
				t.Error("the machine's eth0 is seen")
			}
		}
		StartNode(t, "nested").Exec(t, "true")
	})
}

func TestConfineLeavesNothing(t *testing.T) {
	Require(t)
	mine := func() []string {
		mount, err := CgroupMount()
		must(t, err, "find cgroup2")
		dirs, err := filepath.Glob(filepath.Join(mount, fmt.Sprintf("%s%d-*", cgroupPrefix, os.Getpid())))
		must(t, err, "list cgroups")
		return dirs
	}
	if err := Confine(t.Context(), "false"); err == nil {
		t.Error("exit code of the program: got no error")
	}
	must(t, Confine(t.Context(), "true"), "confine")
	for _, after := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 300 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if err := Confine(ctx, "sh", "-c", "sleep 60 & sleep 60"); err == nil {
			t.Errorf("interrupted after %v: got no error", after)
		}
		cancel()
	}
	if left := mine(); len(left) != 0 {
		t.Errorf("cgroups left: %v", left)
	}
}
