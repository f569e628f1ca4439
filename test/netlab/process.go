// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec says how a program runs inside a node.
type Spec struct {
	// Args is the program and its arguments.
	Args []string
	// Env is added to the caller's environment.
	Env []string
	// Cgroup is a cgroup below the node's, made if need be; empty means the node's own.
	Cgroup string
	// Netns is the path, inside the node, of the network namespace to run in; empty means the node's own.
	Netns string
	// Log receives standard output and standard error.
	Log io.Writer
}

// Command returns a command that will run inside the node, in its own cgroup.
func (n *Node) Command(name string, args ...string) *exec.Cmd {
	return n.command(Spec{Args: append([]string{name}, args...)})
}

// command returns a command as spec has it. The move to the cgroup comes before
// nsenter enters the node, while the path is still the machine's.
func (n *Node) command(spec Spec) *exec.Cmd {
	cgroup := filepath.Join(n.Cgroup, spec.Cgroup)
	_ = os.MkdirAll(cgroup, 0o755) // the shell says what is wrong with it
	network := "--net"
	if spec.Netns != "" {
		network = "--net=" + n.Path(spec.Netns)
	}
	args := []string{
		"-c", `echo $$ > "$0/cgroup.procs" && exec nsenter "$@"`, cgroup,
		// The root and directory of the node's first process, too: they aren't those
		// of its mount namespace where this process lives in a chroot itself.
		"-t", strconv.Itoa(n.PID()), "-m", "-r", "-w", "-u", "-i", "-p", "-C", network, "--",
	}
	cmd := exec.Command("/bin/sh", append(args, spec.Args...)...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Stdout, cmd.Stderr = spec.Log, spec.Log
	return cmd
}

// Exec runs a program inside the node to its end and returns what it printed.
func (n *Node) Exec(tb TB, name string, args ...string) string {
	tb.Helper()
	out, err := n.Command(name, args...).CombinedOutput()
	must(tb, err, "%s: %s %s: %s", n.Name, name, strings.Join(args, " "), out)
	return string(out)
}

// Adopt makes a network namespace known inside the node by a name, at
// /run/netns/NAME, and returns that path.
func (n *Node) Adopt(tb TB, name string, ns *Namespace) string {
	tb.Helper()
	path := "/run/netns/" + name
	cmd := n.Command("sh", "-c", `touch "$0" && mount --bind /proc/self/fd/3 "$0"`, path)
	cmd.ExtraFiles = append(cmd.ExtraFiles, ns.fd)
	out, err := cmd.CombinedOutput()
	must(tb, err, "%s: adopt %s: %s", n.Name, name, out)
	return path
}

// Process is a program that runs inside a node.
type Process struct {
	process *os.Process
	done    chan struct{}
	err     error
}

// Start starts a program inside the node. It ends with the node at the latest.
func (n *Node) Start(tb TB, spec Spec) *Process {
	tb.Helper()
	cmd := n.command(spec)
	must(tb, cmd.Start(), "%s: start %s", n.Name, spec.Args[0])
	p := &Process{done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	WaitFor(tb, 10*time.Second, n.Name+": start "+spec.Args[0], func() error {
		select {
		case <-p.done:
			return nil
		default:
		}
		pid, err := childOf(cmd.Process.Pid) // nsenter forks to enter the pid namespace
		if err != nil {
			return err
		}
		p.process, err = os.FindProcess(pid)
		return err
	})
	if p.process == nil {
		tb.Fatalf("%s: start %s: %v", n.Name, spec.Args[0], p.err)
	}
	return p
}

// Signal sends a signal to the program.
func (p *Process) Signal(signal syscall.Signal) error { return p.process.Signal(signal) }

// PID is the program's process as the machine numbers it.
func (p *Process) PID() int { return p.process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's end and returns its error.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop asks the program to end and waits for it; after the time given it is killed.
func (p *Process) Stop(patience time.Duration) error {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("killed after %v: %w", patience, p.err)
	}
}
