// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls are what a kubelet sets for the whole kernel. The machine gets
// files in their place, so that the one kernel stays as it is.
var sysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// mounts makes every path that a node writes to the machine's own, so the
// usual paths serve unchanged and DaemonSets find their hostPaths.
func (l *Lab) mounts(m Machine) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount /: %w", err)
	}
	steps := []func(Machine) error{l.mountKernel, l.mountCgroups, l.mountSysctls, l.mountState}
	for _, step := range steps {
		if err := step(m); err != nil {
			return err
		}
	}
	// Bidirectional propagation into pods needs shared mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("mount /: %w", err)
	}
	return nil
}

func mount(source, target, fstype, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if err := unix.Mount(source, target, fstype, 0, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

// mountKernel mounts what shows the new pid and network namespaces.
func (l *Lab) mountKernel(Machine) error {
	if err := mount("proc", "/proc", "proc", ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", ""); err != nil {
		return err
	}
	return mount("bpf", "/sys/fs/bpf", "bpf", "")
}

// mountCgroups mounts each hierarchy again: in the new cgroup namespace it
// shows the machine's own subtree.
func (l *Lab) mountCgroups(Machine) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	if err := mount("tmpfs", cgroupRoot, "tmpfs", "mode=755"); err != nil {
		return err
	}
	for _, h := range hs {
		fstype := "cgroup"
		if h.controllers == "" {
			fstype = "cgroup2"
		}
		if err := mount(fstype, h.mount, fstype, h.controllers); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) mountSysctls(m Machine) error {
	for name, value := range sysctls {
		file := l.path(m.Name, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
		if err := bind(file, filepath.Join("/proc/sys", name)); err != nil {
			return err
		}
	}
	return nil
}

// mountState covers the directories that hold a node's state: in memory
// what a reboot loses, on disk the rest, /etc as a layer over the real one.
func (l *Lab) mountState(m Machine) error {
	for _, dir := range []string{"/run", "/var/lib", "/opt"} {
		if err := mount("tmpfs", dir, "tmpfs", "mode=755"); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/opt/cni/bin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	disk := map[string]string{
		"containerd": "/var/lib/containerd",
		"kubelet":    "/var/lib/kubelet",
		"patchbay":   "/var/lib/patchbay",
		"log":        "/var/log",
	}
	for name, target := range disk {
		source := l.path(m.Name, name)
		for _, dir := range []string{source, target} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("mount %s: %w", target, err)
			}
		}
		if err := bind(source, target); err != nil {
			return err
		}
	}
	return l.mountEtc(m)
}

func (l *Lab) mountEtc(m Machine) error {
	upper, work := l.path(m.Name, "etc"), l.path(m.Name, "etc.work")
	for _, dir := range []string{upper, work, filepath.Join(upper, "cni/net.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount /etc: %w", err)
		}
	}
	options := fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s", upper, work)
	if err := mount("overlay", "/etc", "overlay", options); err != nil {
		return err
	}
	files := map[string]string{
		"/etc/hostname":    m.Name + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\n",
	}
	for path, content := range files {
		_ = os.Remove(path) // it may be a link to what /run held
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}
