// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
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

// statusMark opens the last line of the guest's output; the command's exit
// status follows.
const statusMark = "-- command ended with "

// machine is an emulated machine and the files it needs.
type machine struct {
	dir    string
	kernel kernel
	memory int    // MiB
	disk   string // image of a disk, /dev/vda; none if empty
	log    string // what is written to it, in dm-log-writes' format
}

func (m *machine) initrd() string  { return filepath.Join(m.dir, "initrd") }
func (m *machine) socket() string  { return filepath.Join(m.dir, "root.sock") }
func (m *machine) console() string { return filepath.Join(m.dir, "console") }

// run boots the machine, copies the command's output to ours and returns its
// exit status. Both helpers are gone then.
func (m *machine) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	share, err := m.share(ctx)
	if err != nil {
		cancel()
		return statusError, err
	}
	emulator := child(ctx, "qemu-system-x86_64", m.arguments()...)
	stdout, err := emulator.StdoutPipe()
	if err == nil {
		err = emulator.Start()
	}
	if err != nil {
		cancel()
		return statusError, errors.Join(fmt.Errorf("start emulator: %w", err), ended(share.Wait()))
	}
	status, err := copyOutput(os.Stdout, stdout)
	cause := context.Cause(ctx)
	cancel() // nothing of what the guest still does counts
	err = errors.Join(err, ended(emulator.Wait()), ended(share.Wait()))
	switch {
	case cause != nil:
		return statusError, errors.Join(cause, m.complaint())
	case err != nil:
		return statusError, errors.Join(err, m.complaint())
	}
	return status, nil
}

// share starts the server of the root file system and waits for its socket.
func (m *machine) share(ctx context.Context) (*exec.Cmd, error) {
	server, err := exec.LookPath("/usr/lib/qemu/virtiofsd")
	if err != nil {
		if server, err = exec.LookPath("/usr/libexec/virtiofsd"); err != nil {
			return nil, err
		}
	}
	cmd := child(ctx, server, "--socket-path="+m.socket(), "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=auto", "--rlimit-nofile=0")
	log, err := os.Create(filepath.Join(m.dir, "share"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start file server: %w", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, err := os.Stat(m.socket()); err == nil {
			return cmd, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			said, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("file server has no socket: %s", said), context.Cause(ctx), ended(cmd.Wait()))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// arguments: the kernel speaks on the first serial line, the command on the second.
func (m *machine) arguments() []string {
	memory := fmt.Sprintf("%dM", m.memory)
	var disk []string
	if m.disk != "" {
		disk = []string{
			"-blockdev", "driver=file,node-name=image,filename=" + m.disk, "-blockdev", "driver=file,node-name=log,filename=" + m.log,
			"-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=log,log-sector-size=512,log-super-update-interval=1",
			"-device", "virtio-blk-pci,drive=disk,write-cache=on",
		}
	}
	return append(disk, []string{
		"-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m", memory,
		"-object", "memory-backend-memfd,id=memory,share=on,size=" + memory, "-numa", "node,memdev=memory",
		"-nodefaults", "-display", "none", "-no-reboot", "-net", "none",
		"-kernel", m.kernel.image(), "-initrd", m.initrd(),
		"-append", "console=ttyS0 loglevel=4 panic=-1 oops=panic no_timer_check nowatchdog mitigations=off",
		"-serial", "file:" + m.console(), "-serial", "stdio",
		"-chardev", "socket,id=root,path=" + m.socket(), "-device", "vhost-user-fs-pci,chardev=root,tag=host",
	}...)
}

// child is a command that ends with ctx, and with us.
func child(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// ended is err unless it says that we ended the process.
func ended(err error) error {
	var exit *exec.ExitError
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &exit) {
		return nil
	}
	return err
}

// copyOutput copies lines up to the one with the command's exit status.
func copyOutput(to io.Writer, from io.Reader) (int, error) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if text, ok := strings.CutPrefix(line, statusMark); ok {
			return strconv.Atoi(strings.TrimSpace(text))
		}
		if _, err := io.WriteString(to, line); err != nil {
			return statusError, err
		}
		if err != nil {
			return statusError, errors.New("ended without a word about the command")
		}
	}
}

// complaint is what the guest's kernel said.
func (m *machine) complaint() error {
	said, err := os.ReadFile(m.console())
	if err != nil {
		return err
	}
	const most = 8 << 10
	return fmt.Errorf("its kernel said: %s", said[max(0, len(said)-most):])
}
