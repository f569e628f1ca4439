// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// addNetns makes a network namespace and names it as ip-netns does, but
// leaves the directory's mount as it is.
func addNetns(name string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("netns %s: %w", name, err)
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("netns %s: %w", name, err)
	}
	f.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("netns %s: %w", name, err)
	}
	return nil
}

// deleteNetns forgets the name; the namespace goes with its last process.
func deleteNetns(name string) error {
	path := filepath.Join(netnsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("netns %s: unmount: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("netns %s: %w", name, err)
	}
	return nil
}

// inNetns returns a command that runs argv in the namespace called name.
func inNetns(ctx context.Context, name string, argv ...string) *exec.Cmd {
	return command(ctx, "nsenter", append([]string{"--net=" + filepath.Join(netnsDir, name), "--"}, argv...)...)
}

// ipBatch runs the lines of an ip(8) batch in the namespace called name.
func ipBatch(ctx context.Context, name string, lines ...string) error {
	cmd := command(ctx, "ip", "-n", name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in %s: %w: %s", name, err, out)
	}
	return nil
}

// network makes the switches, the machines' namespaces and what joins them.
func (l *Lab) network(ctx context.Context) error {
	for _, name := range l.namespaces() {
		if err := addNetns(name); err != nil {
			return err
		}
	}
	for _, s := range switches() {
		lines := []string{"link set lo up", "link add br0 type bridge mcast_snooping 0"}
		for _, a := range l.addresses(s.Gateway) {
			lines = append(lines, "addr add "+a.String()+" dev br0 nodad")
		}
		if err := ipBatch(ctx, l.Netns(s.Name), append(lines, "link set br0 up")...); err != nil {
			return err
		}
	}
	for _, m := range l.Machines {
		if err := l.plugMachine(ctx, m); err != nil {
			return err
		}
	}
	internal, external := testerPorts()
	return errors.Join(
		l.plug(ctx, "external", "client", "eth0", ClientPort()),
		l.plug(ctx, "internal", "tester", "eth0", internal),
		l.plug(ctx, "external", "tester", "eth1", external))
}

// plugMachine joins m to its switches and routes through the internal one.
func (l *Lab) plugMachine(ctx context.Context, m Machine) error {
	if err := l.plug(ctx, "internal", m.Name, "eth0", m.Internal); err != nil {
		return err
	}
	gateway := switches()[0].Gateway
	var routes []string
	for _, a := range l.addresses(gateway) {
		routes = append(routes, "route add default via "+a.Addr().String())
	}
	if err := ipBatch(ctx, l.Netns(m.Name), routes...); err != nil {
		return err
	}
	if !m.External.V4.IsValid() {
		return nil
	}
	return l.plug(ctx, "external", m.Name, "eth1", m.External)
}

// plug gives machine the NIC dev, whose other end is a port of sw's bridge.
func (l *Lab) plug(ctx context.Context, sw, machine, dev string, p Port) error {
	port := "p-" + machine
	err := ipBatch(ctx, l.Netns(sw),
		fmt.Sprintf("link add %s type veth peer name %s netns %s", port, dev, l.Netns(machine)),
		fmt.Sprintf("link set %s master br0 up", port))
	if err != nil {
		return err
	}
	lines := []string{"link set lo up"}
	for _, a := range l.addresses(p) {
		lines = append(lines, fmt.Sprintf("addr add %s dev %s nodad", a, dev))
	}
	return ipBatch(ctx, l.Netns(machine), append(lines, "link set "+dev+" up")...)
}
