// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Open and Remove while another process has the pin
// directory open.
var ErrInUse = errors.New("pin directory is in use by another process")

// ensureBPFFS sees to it that dir's parent is a BPF file system, mounting one
// if it isn't, and that dir exists. It mounts over an empty folder only.
func ensureBPFFS(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(parent, &stat); err != nil {
		return fmt.Errorf("statfs %s: %w", parent, err)
	}
	if stat.Type != unix.BPF_FS_MAGIC {
		entries, err := os.ReadDir(parent)
		if err != nil {
			return fmt.Errorf("mount bpffs on %s: %w", parent, err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("mount bpffs on %s: the folder isn't empty, and its files would be hidden: set paths.bpf to a folder below one of its own", parent)
		}
		if err := unix.Mount("bpf", parent, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs on %s: %w", parent, err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make pin directory: %w", err)
	}
	return nil
}

// lockDir takes the directory for this process. The kernel lets go of it
// however the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}
