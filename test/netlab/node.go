// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// privateDirs are the directories that each node has for itself, empty at first.
var privateDirs = []string{"/var/lib/patchbay", "/var/lib/cni", "/etc/cni", "/etc/patchbay", "/opt/cni"}

// prelude is the shell that turns fresh namespaces into a node: its own sysfs,
// cgroup2 root, bpffs, /run, and privateDirs. $1 is where cgroup2 is mounted.
// The overlays let the directories be made without touching the machine's.
const prelude = `set -e
mount --make-rprivate /
mount -t sysfs sysfs /sys
[ "$1" = /sys/fs/cgroup ] || mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mkdir -p "$1"
mount -t cgroup2 cgroup2 "$1"
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
if [ -z "$NETLAB_PRIVATE" ]; then
	for d in /etc /var /opt; do
		mkdir -p /run/netlab$d/upper /run/netlab$d/work
		mount -t overlay -o lowerdir=$d,upperdir=/run/netlab$d/upper,workdir=/run/netlab$d/work overlay $d
	done
fi
for d in $DIRS; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done
export NETLAB_PRIVATE=1
shift
`

// unshareCommand returns a command that runs args in new namespaces after the
// prelude and script, in the given cgroup. It dies with the calling thread.
func unshareCommand(cgroup, script string, args ...string) (*exec.Cmd, error) {
	mount, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	shell := []string{
		"-c", `echo $$ > "$0/cgroup.procs" && exec unshare "$@"`, cgroup,
		"--net", "--cgroup", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--",
		"/bin/sh", "-c", prelude + script, "netlab", mount,
	}
	cmd := exec.Command("/bin/sh", append(shell, args...)...)
	cmd.Env = append(os.Environ(), "DIRS="+strings.Join(privateDirs, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd, nil
}

// Node is a machine: network, mount, pid, cgroup, uts and ipc namespaces of its
// own with a private /run, /sys/fs/bpf, /var/lib/patchbay, /etc/cni and /opt/cni.
// Its processes end with it.
type Node struct {
	Name string
	// Net is the node's network namespace, with lo up and nothing else.
	Net *Namespace
	// Cgroup is the node's cgroup2 directory as the machine sees it; the node sees it as the root.
	Cgroup string

	init  *os.Process
	kill  context.CancelFunc
	ended chan struct{}
}

// StartNode raises a node. It ends with the test.
func StartNode(tb TB, name string) *Node {
	tb.Helper()
	ctx, kill := context.WithCancel(context.Background())
	n := &Node{Name: name, Cgroup: NewCgroup(tb), kill: kill, ended: make(chan struct{})}
	started := make(chan error, 1)
	go n.hold(ctx, started)
	tb.Cleanup(n.Kill)
	must(tb, <-started, "start node %s", name)
	n.Net = Open(tb, fmt.Sprintf("/proc/%d/ns/net", n.PID()))
	n.Net.Up(tb, "lo")
	return n
}

// hold starts the node's first process, whose life hangs on this thread, and keeps it until ctx ends.
func (n *Node) hold(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer close(n.ended)
	cmd, err := n.start()
	started <- err
	if err != nil {
		return
	}
	<-ctx.Done()
	_ = killCgroup(n.Cgroup) // what is left ends with the pid namespace
	_ = cmd.Wait()
}

// start starts the node's first process and waits until the node is set up.
func (n *Node) start() (*exec.Cmd, error) {
	cmd, err := unshareCommand(n.Cgroup, `hostname "$1"; echo up; exec >/dev/null 2>&1; while :; do wait; sleep 1; done`, n.Name)
	if err != nil {
		return nil, err
	}
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("set up: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	pid, err := childOf(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	n.init, err = os.FindProcess(pid)
	return cmd, err
}

// childOf returns the pid of a process's first child.
func childOf(pid int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(children), " ")
	return strconv.Atoi(first)
}

// Kill ends the node and all its processes at once, as a power cut would, and waits for their end.
func (n *Node) Kill() {
	n.kill()
	<-n.ended
}

// PID is the node's first process as the machine numbers it; nsenter -t PID -a looks inside.
func (n *Node) PID() int { return n.init.Pid }

// Path translates a path inside the node to one that the machine can open.
func (n *Node) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.PID()), path)
}
