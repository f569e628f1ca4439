// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a mounted cgroup hierarchy and this process's place in it.
type hierarchy struct {
	controllers string // as in /proc/self/cgroup; empty for cgroup2
	mount       string
	own         string
}

// hierarchies reads where this process stands. A hybrid machine has one per
// v1 controller and cgroup2 under unified.
func hierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	var hs []hierarchy
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("cgroups: line %q", line)
		}
		h := hierarchy{controllers: fields[1], own: fields[2]}
		h.mount = filepath.Join(cgroupRoot, h.dirName())
		hs = append(hs, h)
	}
	return hs, nil
}

// dirName is the directory below /sys/fs/cgroup that h is mounted at.
func (h hierarchy) dirName() string {
	if h.controllers == "" {
		return "unified"
	}
	return strings.TrimPrefix(h.controllers, "name=")
}

// enterCgroups moves this process into the cgroup lab/part of every
// hierarchy. Each directory is recorded before it is made, for Down.
func (l *Lab) enterCgroups(part string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		top := filepath.Join(h.mount, h.own, l.Name)
		if err := l.record("cgroups", top); err != nil {
			return err
		}
		for _, dir := range []string{top, filepath.Join(top, part)} {
			if err := makeCgroup(h, dir); err != nil {
				return err
			}
		}
		procs := filepath.Join(top, part, "cgroup.procs")
		if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
			return fmt.Errorf("cgroup %s: %w", procs, err)
		}
	}
	return nil
}

// makeCgroup makes dir. A new cpuset has no CPUs until it is given some.
func makeCgroup(h hierarchy, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	if h.controllers != "cpuset" {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// killCgroups ends every process of the lab and removes its cgroups. All
// that the lab starts is in them, whatever session or parent it has by now.
func (l *Lab) killCgroups(ctx context.Context) error {
	tops, err := l.recorded("cgroups")
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := killCgroup(top); err != nil {
			return err
		}
	}
	for _, top := range tops {
		err := until(ctx, 20*time.Second, "remove "+top, func() bool {
			removeTree(top)
			_, err := os.Stat(top)
			return errors.Is(err, os.ErrNotExist)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// killCgroup kills what is in top and below. Processes that were caught
// between two hierarchies are found in either.
func killCgroup(top string) error {
	if err := os.WriteFile(filepath.Join(top, "cgroup.kill"), []byte("1"), 0); err == nil {
		return nil
	}
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil // gone with its cgroup
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			var pid int
			if _, err := fmt.Sscan(s.Text(), &pid); err == nil && pid > 1 && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by itself
			}
		}
		return nil
	})
}

// removeTree removes the cgroups below top, deepest first, as far as it can.
func removeTree(top string) {
	entries, err := os.ReadDir(top)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(top, e.Name()))
		}
	}
	_ = unix.Rmdir(top) // until sees whether it is gone
}
