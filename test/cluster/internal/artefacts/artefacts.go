// SPDX-License-Identifier: Apache-2.0

// Package artefacts builds what a test cluster runs: Kubernetes, containerd
// and CoreDNS from their Go modules, and the images of its pods. Each is kept
// in a cache under a key of all that goes into it, and built again only when
// that changes.
package artefacts

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Builder builds into a cache.
type Builder struct {
	Source string // the directory of test/cluster
	Cache  string
	Log    io.Writer
}

// artefact is a directory of files that are built together.
type artefact struct {
	name   string
	inputs []string // files and directories below Source
	recipe string   // what else decides the result
	build  func(ctx context.Context, b *Builder, dir string) error
}

// Set is a complete build.
type Set struct {
	dirs map[string]string
}

// Binaries lists the programs of the set by the name they are called by.
func (s *Set) Binaries() (map[string]string, error) {
	programs := map[string]string{}
	for _, dir := range s.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("artefacts: %w", err)
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) != ".tar" {
				programs[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	for _, name := range kubeComponents {
		programs[name] = programs["kube"]
	}
	return programs, nil
}

// Images is the archive of all images but Patchbay's own.
func (s *Set) Images() string { return filepath.Join(s.dirs["images"], "images.tar") }

// Build builds what the cache lacks. What doesn't depend on each other is
// still built in turn: each build uses all CPUs by itself.
func (b *Builder) Build(ctx context.Context) (*Set, error) {
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("artefacts: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(b.Cache, "build.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("artefacts: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("artefacts: lock: %w", err)
	}
	set := &Set{dirs: map[string]string{}}
	for _, a := range all(set) {
		dir, err := b.ensure(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("build %s: %w", a.name, err)
		}
		set.dirs[a.name] = dir
	}
	return set, nil
}

// ensure returns a's directory in the cache, building it if it isn't there.
// Older builds of the same name are removed then.
func (b *Builder) ensure(ctx context.Context, a artefact) (string, error) {
	key, err := b.key(a)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.Cache, a.name+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	old, err := filepath.Glob(filepath.Join(b.Cache, a.name+"-*"))
	if err != nil {
		return "", err
	}
	start := time.Now()
	fmt.Fprintf(b.Log, "build %s\n", a.name)
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	if err := a.build(ctx, b, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(b.Log, "build %s: %.0f s\n", a.name, time.Since(start).Seconds())
	return dir, nil
}

// key hashes the inputs and the recipe of a.
func (b *Builder) key(a artefact) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %s\n", runtime.Version(), runtime.GOARCH, a.recipe)
	for _, input := range a.inputs {
		err := filepath.WalkDir(filepath.Join(b.Source, input), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", strings.TrimPrefix(path, b.Source), len(data), data)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// goCommand is the go command in the module at dir, below Source.
func (b *Builder) goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10", "go"}, args...)...)
	cmd.Dir = filepath.Join(b.Source, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = b.Log
	// The compilers are the go command's children: end them with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// Go runs the go command in the module at dir, below Source.
func (b *Builder) Go(ctx context.Context, dir string, args ...string) error {
	if err := b.goCommand(ctx, dir, args...).Run(); err != nil {
		return fmt.Errorf("go %s: %w", args[0], err)
	}
	return nil
}

func (b *Builder) goOutput(ctx context.Context, args ...string) (string, error) {
	out, err := b.goCommand(ctx, ".", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", args[0], err)
	}
	return string(out), nil
}
