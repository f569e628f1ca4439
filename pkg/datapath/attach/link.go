// SPDX-License-Identifier: Apache-2.0

// Package attach puts programs where packets and socket calls pass. What it
// attaches stays when the process ends, as pinned links or as tc filters, and
// is replaced in place: there is no instant at which neither the old nor the
// new program runs.
package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Hook is one place on a network device.
type Hook struct {
	IfIndex int
	Egress  bool
}

func (h Hook) attachType() ebpf.AttachType {
	if h.Egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// TCX attaches prog to a device and pins the link at pin. A link that is
// pinned there for the same hook is updated; one of a device that is gone is
// replaced.
func TCX(pin string, hook Hook, prog *ebpf.Program) error {
	here := func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && int(tcx.Ifindex) == hook.IfIndex && ebpf.AttachType(tcx.AttachType) == hook.attachType()
	}
	return attach(pin, prog, here, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{
			Interface: hook.IfIndex, Program: prog, Attach: hook.attachType(),
		})
	})
}

// Cgroup attaches prog to the cgroup v2 directory path and pins the link at
// pin. A link that is pinned there for the same cgroup is updated; one of
// another cgroup is replaced.
func Cgroup(pin, path string, at ebpf.AttachType, prog *ebpf.Program) error {
	id, err := cgroupID(path)
	if err != nil {
		return err
	}
	here := func(info *link.Info) bool {
		cg := info.Cgroup()
		return cg != nil && cg.CgroupId == id && ebpf.AttachType(cg.AttachType) == at
	}
	return attach(pin, prog, here, func() (link.Link, error) {
		return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: at, Program: prog})
	})
}

// attach updates the link pinned at pin if it is here, else makes a new one
// and renames its pin over the old one, which detaches what that held.
func attach(pin string, prog *ebpf.Program, here func(*link.Info) bool, create func() (link.Link, error)) error {
	old, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil:
		defer old.Close()
		info, err := old.Info()
		if err == nil && here(info) {
			return update(pin, old, prog)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	l, err := create()
	if err != nil {
		return fmt.Errorf("attach %s: %w", filepath.Base(pin), err)
	}
	defer l.Close()
	next := pin + "-new"
	if err := removePin(next); err != nil {
		return err
	}
	if err := l.Pin(next); err != nil {
		return fmt.Errorf("pin link %s: %w", pin, err)
	}
	if err := os.Rename(next, pin); err != nil {
		return errors.Join(fmt.Errorf("pin link %s: %w", pin, err), removePin(next))
	}
	return nil
}

// Replace updates the link at pin to run prog. A link whose device is gone is
// unpinned.
func Replace(pin string, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link %s: %w", pin, err)
	}
	if tcx := info.TCX(); tcx != nil && tcx.Ifindex == 0 {
		return removePin(pin)
	}
	return update(pin, l, prog)
}

func update(pin string, l link.Link, prog *ebpf.Program) error {
	if err := l.Update(prog); err != nil {
		return fmt.Errorf("update link %s: %w", pin, err)
	}
	return nil
}

// Detach detaches and unpins the link at pin. No link there is no error.
func Detach(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	// Another process may hold the link open, so unpinning alone doesn't
	// detach. A link whose device is gone is detached already.
	err = l.Detach()
	if errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("detach link %s: %w", pin, err)
	}
	return errors.Join(err, removePin(pin))
}

func removePin(pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}

// cgroupID is the kernel's id of a cgroup: its inode number.
func cgroupID(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("stat cgroup %s: %w", path, err)
	}
	var fsstat unix.Statfs_t
	if err := unix.Statfs(path, &fsstat); err != nil {
		return 0, fmt.Errorf("statfs cgroup %s: %w", path, err)
	}
	if fsstat.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("cgroup %s: not a cgroup v2 directory", path)
	}
	return stat.Ino, nil
}
