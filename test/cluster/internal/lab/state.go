// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotUp is returned where a lab is asked for that isn't there.
var ErrNotUp = errors.New("cluster is not up")

// Load reads back the lab that Up raised under stateDir.
func Load(name, stateDir string) (*Lab, error) {
	l := New(name, stateDir)
	data, err := os.ReadFile(l.path("lab.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotUp
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	return l, nil
}

// save writes the lab's description for the stages that start by themselves,
// and gathers the programs under the names they are called by.
func (l *Lab) save(programs map[string]string) error {
	if err := os.MkdirAll(l.bin(""), 0o755); err != nil {
		return fmt.Errorf("lab %s: %w", l.Name, err)
	}
	for name, path := range programs {
		if err := os.Symlink(path, l.bin(name)); err != nil {
			return fmt.Errorf("lab %s: %w", l.Name, err)
		}
	}
	return l.describe()
}

// describe writes what Load reads.
func (l *Lab) describe() error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.Name, err)
	}
	return l.write(string(data), "lab.json")
}

func (l *Lab) bin(name string) string { return l.path("bin", name) }

// write puts content into a file of the lab's directory, whole or not at all.
func (l *Lab) write(content string, elem ...string) error {
	path := l.path(elem...)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return os.Rename(path+".new", path)
}

// record appends a line to a list that Down works through.
func (l *Lab) record(list, line string) error {
	f, err := os.OpenFile(l.path(list), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("record %s: %w", line, err)
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// recorded returns each line of list once.
func (l *Lab) recorded(list string) ([]string, error) {
	data, err := os.ReadFile(l.path(list))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", list, err)
	}
	lines := strings.Fields(string(data))
	slices.Sort(lines)
	return slices.Compact(lines), nil
}

// lock makes sure that one process at a time raises or ends the lab. The
// returned function gives it back.
func (l *Lab) lock() (func(), error) {
	f, err := os.OpenFile(l.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.Name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", l.Name, err)
	}
	return func() { f.Close() }, nil
}

// command is exec.CommandContext for a program with children of its own:
// when ctx ends, its whole process group does.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// until polls cond, and says what it waited for when limit is over.
func until(ctx context.Context, limit time.Duration, what string, cond func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not within %s", what, limit))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
