// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// buildDemo builds the demo and what it needs and returns their directory.
func buildDemo(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	site.Build(t, bin)
	cmd := exec.Command("go", "build", "-o", bin+"/", ".", "../app/web")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return bin
}

// machine is what a demo must leave as it was: links, mounts, pins, named
// namespaces, and the cgroups and processes of that demo.
func machine(bin string, pid int) map[string]string {
	show := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		return fmt.Sprintf("%s%v", out, err)
	}
	state := map[string]string{
		"links":      show("sh", "-c", "ip -o link | sed 's/<.*//'"),
		"mounts":     show("sh", "-c", "cut -d' ' -f2,3 /proc/mounts | sort"),
		"pins":       show("find", "/sys/fs/bpf", "/run/netns", "-mindepth", "1"),
		"nftables":   show("nft", "list", "tables"),
		"processes":  "",
		"temporary":  show("sh", "-c", "ls -d /var/tmp/demo /var/lib/patchbay /etc/patchbay /opt/cni /run/patchbay"),
		"own cgroup": "",
	}
	if mount, err := netlab.CgroupMount(); err == nil && pid > 0 {
		left, _ := filepath.Glob(filepath.Join(mount, fmt.Sprintf("netlab-%d-*", pid)))
		state["own cgroup"] = strings.Join(left, " ")
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		if text, _ := os.ReadFile(path); strings.Contains(string(text), bin) {
			state["processes"] += strings.ReplaceAll(string(text), "\x00", " ") + "\n"
		}
	}
	return state
}

// TestInterrupted sends the demo signals at random moments: SIGINT and SIGTERM
// leave the machine as it was, SIGKILL leaves empty cgroups, which are swept.
func TestInterrupted(t *testing.T) {
	netlab.Require(t)
	bin := buildDemo(t)
	before := machine(bin, 0)
	for i, signal := range []syscall.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL,
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGTERM,
	} {
		moment := time.Duration(i)*300*time.Millisecond + rand.N(300*time.Millisecond)
		cmd := exec.Command(filepath.Join(bin, "demo"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(moment) // the moment is the test's subject
		if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if signal == syscall.SIGKILL {
			netlab.WaitFor(t, 10*time.Second, "the end of the cgroups", func() error {
				_, err := netlab.Sweep()
				return err
			})
		}
		if diff := cmp.Diff(before, machine(bin, cmd.Process.Pid)); diff != "" {
			t.Errorf("%v after %v (-before +after):\n%s", signal, moment, diff)
		}
	}
}
