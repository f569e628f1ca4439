// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix opens the name of each cgroup that netlab makes: prefix, pid,
// time of that process's start, counter.
const cgroupPrefix = "netlab-"

// cgroupCounter tells apart the cgroups of one process.
var cgroupCounter atomic.Uint32

// CgroupMount returns where cgroup2 is mounted: /sys/fs/cgroup, or elsewhere on a hybrid machine.
func CgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("cgroup2 isn't mounted")
}

// NewCgroup makes a cgroup below the root of cgroup2 and returns its path. It
// and what is below it are removed with the test, once their processes are gone.
func NewCgroup(tb TB) string {
	tb.Helper()
	dir, err := makeCgroup()
	must(tb, err, "make cgroup")
	tb.Cleanup(func() {
		if err := endCgroup(dir); err != nil {
			tb.Logf("%v", err)
		}
	})
	return dir
}

// makeCgroup makes a cgroup whose name says which process it is of.
func makeCgroup() (string, error) {
	mount, err := CgroupMount()
	if err != nil {
		return "", err
	}
	started, err := startOf(os.Getpid())
	if err != nil {
		return "", err
	}
	dir := filepath.Join(mount, fmt.Sprintf("%s%d-%s-%d", cgroupPrefix, os.Getpid(), started, cgroupCounter.Add(1)))
	return dir, os.Mkdir(dir, 0o755)
}

// startOf returns when a process was started, in ticks since the boot: with it a
// pid that is used again is told from its first bearer.
func startOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	const startTime = 22 - 2 // the name before it may hold blanks
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < startTime {
		return "", fmt.Errorf("process %d: stat is short", pid)
	}
	return fields[startTime-1], nil
}

// endCgroup removes a cgroup whose processes have just been killed: the kernel needs a moment.
func endCgroup(dir string) error {
	return Poll(10*time.Second, func() error { return removeCgroup(dir) })
}

// killCgroup kills all processes of a cgroup and those below it, whatever they are
// about to start, and waits for their end.
func killCgroup(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return Poll(10*time.Second, func() error {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && !bytes.Contains(events, []byte("populated 0\n")) {
			err = fmt.Errorf("processes of %s outlive SIGKILL", dir)
		}
		return err
	})
}

// removeCgroup removes a cgroup and all below it, deepest first.
func removeCgroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil {
			return fmt.Errorf("remove %s: %w", d, err)
		}
	}
	return nil
}

// Sweep removes the cgroups that processes which are no more left behind, and returns their paths.
func Sweep() ([]string, error) {
	mount, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(mount, cgroupPrefix+"*"))
	var swept []string
	for _, dir := range dirs {
		if ownerLives(filepath.Base(dir)) {
			continue
		}
		if rmErr := removeCgroup(dir); rmErr != nil {
			err = errors.Join(err, rmErr)
			continue
		}
		swept = append(swept, dir)
	}
	return swept, err
}

// ownerLives tells whether the process that made the cgroup of that name is there still.
func ownerLives(name string) bool {
	parts := strings.Split(strings.TrimPrefix(name, cgroupPrefix), "-")
	pid, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) != 3 {
		return true // not ours to judge
	}
	started, err := startOf(pid)
	return err == nil && started == parts[1]
}
