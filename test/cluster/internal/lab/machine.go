// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A machine starts in three stages, each this program again:
//
//	Enter  joins the machine's cgroups and network namespace, and starts
//	Init   as pid 1 of the machine's other namespaces: mounts, then reaps;
//	Boot   runs the container runtime, the kubelet and the control plane.
//
// When Enter or Init ends, the kernel ends all of the machine.

// startMachine runs Enter for m in a session of its own, its output in
// MACHINE/console.log.
func (l *Lab) startMachine(m Machine) error {
	if err := os.MkdirAll(l.path(m.Name), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	console, err := os.Create(l.path(m.Name, "console.log"))
	if err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	defer console.Close()
	cmd := exec.Command("/proc/self/exe", "enter", l.Dir, m.Name)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	go cmd.Wait() // reaps it, should it end before this process
	return nil
}

// Enter is the first stage of machine name.
func (l *Lab) Enter(name string) error {
	m, err := l.machine(name)
	if err != nil {
		return err
	}
	if err := l.enterCgroups(m.Name); err != nil {
		return err
	}
	runtime.LockOSThread() // the child inherits this thread's namespace
	ns, err := os.Open(filepath.Join(netnsDir, l.Netns(m.Name)))
	if err != nil {
		return fmt.Errorf("enter %s: %w", name, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", name, err)
	}
	cmd := exec.Command("/proc/self/exe", "init", l.Dir, m.Name)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("enter %s: %w", name, err)
	}
	if err := l.write(strconv.Itoa(cmd.Process.Pid), m.Name, "pid"); err != nil {
		return err
	}
	return cmd.Wait()
}

// Init is pid 1 of machine name: it mounts what makes the machine its own,
// starts Boot, and reaps what is orphaned.
func (l *Lab) Init(name string) error {
	m, err := l.machine(name)
	if err != nil {
		return err
	}
	if err := l.mounts(m); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(m.Name)); err != nil {
		return fmt.Errorf("init %s: %w", name, err)
	}
	boot := exec.Command("/proc/self/exe", "boot", l.Dir, m.Name)
	boot.Stdout, boot.Stderr = os.Stdout, os.Stderr
	if err := boot.Start(); err != nil {
		return fmt.Errorf("init %s: %w", name, err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("init %s: wait: %w", name, err)
		case pid == boot.Process.Pid:
			return fmt.Errorf("init %s: boot ended, status %d", name, status.ExitStatus())
		}
	}
}

// Exec returns a command that runs argv inside machine name, in all its
// namespaces.
func (l *Lab) Exec(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	return l.enter(ctx, name, name, argv...)
}

// enter returns a command that runs argv in all namespaces of machine name but
// that of the network, which is part's.
func (l *Lab) enter(ctx context.Context, name, part string, argv ...string) (*exec.Cmd, error) {
	data, err := os.ReadFile(l.path(name, "pid"))
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	network := "--net=" + filepath.Join(netnsDir, l.Netns(part))
	args := append([]string{"-t", strings.TrimSpace(string(data)), "-m", network, "-u", "-i", "-p", "-C", "--"}, argv...)
	return command(ctx, "nsenter", args...), nil
}

// RestartKubelet has machine name's kubelet begin again: it registers its node
// anew where it is gone.
func (l *Lab) RestartKubelet(ctx context.Context, name string) error {
	pid, err := os.ReadFile(l.path(name, "kubelet.pid"))
	if err != nil {
		return fmt.Errorf("restart kubelet: %w", err)
	}
	cmd, err := l.Exec(ctx, name, "kill", string(pid))
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("restart kubelet of %s: %w: %s", name, err, out)
	}
	return nil
}

// Readdress gives machine name another address on the internal switch, in
// place of the one its node has: both are there while during runs.
func (l *Lab) Readdress(ctx context.Context, name string, to Port, during func() error) error {
	m, err := l.machine(name)
	if err != nil {
		return err
	}
	from := m.Internal
	change := func(verb string, p Port, options string) error {
		var lines []string
		for _, a := range l.addresses(p) {
			lines = append(lines, fmt.Sprintf("addr %s %s dev eth0%s", verb, a, options))
		}
		return ipBatch(ctx, l.Netns(name), lines...)
	}
	// As every init system sets it: without the first address the others stay.
	promote, err := l.Exec(ctx, name, "sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
	if err != nil {
		return err
	}
	if out, err := promote.CombinedOutput(); err != nil {
		return fmt.Errorf("readdress %s: %w: %s", name, err, out)
	}
	if err := change("add", to, " nodad"); err != nil {
		return err
	}
	i := slices.IndexFunc(l.Machines, func(m Machine) bool { return m.Name == name })
	l.Machines[i].Internal = to
	if err := l.describe(); err != nil {
		return err
	}
	if err := l.RestartKubelet(ctx, name); err != nil {
		return err
	}
	if err := during(); err != nil {
		return err
	}
	return change("del", from, "")
}

// Client returns a command that runs argv as the outside client.
func (l *Lab) Client(ctx context.Context, argv ...string) *exec.Cmd {
	return inNetns(ctx, l.Netns("client"), argv...)
}

// Tester returns a command on a machine of both networks that is no node.
func (l *Lab) Tester(ctx context.Context, argv ...string) *exec.Cmd {
	return inNetns(ctx, l.Netns("tester"), argv...)
}

// Kubectl returns a kubectl command for the cluster's administrator.
func (l *Lab) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	argv := append([]string{l.bin("kubectl"), "--kubeconfig", l.kubeconfig("admin")}, args...)
	cmd := inNetns(ctx, l.Netns(l.controlPlane().Name), argv...)
	cmd.Env = append(os.Environ(), "HOME="+l.Dir) // its discovery cache
	return cmd
}

// Apply gives the YAML that r holds to the cluster.
func (l *Lab) Apply(ctx context.Context, r io.Reader) error {
	cmd := l.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// Import gives every machine the images of an OCI archive.
func (l *Lab) Import(ctx context.Context, archive string) error {
	path, err := filepath.Abs(archive)
	if err != nil {
		return fmt.Errorf("import %s: %w", archive, err)
	}
	for _, m := range l.Machines {
		cmd, err := l.Exec(ctx, m.Name, l.bin("ctr"), "-n", "k8s.io", "images", "import", "--local", path)
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s on %s: %w: %s", archive, m.Name, err, out)
		}
	}
	return nil
}

// reporting is how long upstream's tests have to end and report when they are
// interrupted.
const reporting = 45 * time.Second

// Tests returns a command that runs upstream's end-to-end tests that match
// focus and not skip, with a report in dir. It ends with the control plane, but
// is on the tester's network.
func (l *Lab) Tests(ctx context.Context, dir, focus, skip string) (*exec.Cmd, error) {
	argv := []string{l.bin("ginkgo"), "run", "--procs=6", "--no-color", "--timeout=40m", "--poll-progress-after=4m", "--poll-progress-interval=4m",
		"--focus=" + focus, "--output-dir=" + dir, "--json-report=report.json"}
	if skip != "" {
		argv = append(argv, "--skip="+skip)
	}
	cmd, err := l.enter(ctx, l.controlPlane().Name, "tester", append(argv, l.bin("e2e.test"), "--",
		"--kubeconfig="+l.kubeconfig("admin"), "--kubectl-path="+l.bin("kubectl"),
		"--provider=skeleton", fmt.Sprintf("--num-nodes=%d", len(l.Machines)-1), "--disable-log-dump")...)
	if err != nil {
		return nil, err
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
	cmd.Cancel = func() error { // it reports what it has when it is interrupted
		time.AfterFunc(reporting, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
		return unix.Kill(-cmd.Process.Pid, unix.SIGINT)
	}
	cmd.WaitDelay = reporting + 5*time.Second
	return cmd, nil
}
