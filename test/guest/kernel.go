// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is an unpacked kernel package.
type kernel struct {
	dir     string
	release string // as uname -r says
}

// image is the file to boot.
func (k kernel) image() string { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }

// modules is where modprobe would look in /lib/modules/<release>.
func (k kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.release) }

// findKernel returns the newest cloud kernel of a series that the configured
// Debian suites have, unpacked below cache; where they can't be asked, the
// newest that is there.
func findKernel(ctx context.Context, cache, series string) (kernel, error) {
	names, err := packages(ctx, series)
	if err != nil {
		return kernel{}, err
	}
	if len(names) == 0 {
		if _, err := output(ctx, "", "apt-get", "update", "-qq"); err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
		}
		if names, err = packages(ctx, series); err != nil {
			return kernel{}, err
		}
	}
	if len(names) == 0 {
		if names, err = filepath.Glob(filepath.Join(cache, "linux-image-"+series+".*")); err != nil || len(names) == 0 {
			return kernel{}, errors.Join(fmt.Errorf("no package linux-image-%s.*-cloud-amd64 in the configured suites", series), err)
		}
	}
	name := filepath.Base(slices.MaxFunc(names, compareVersions))
	k := kernel{dir: filepath.Join(cache, name), release: strings.TrimPrefix(name, "linux-image-")}
	if _, err := os.Stat(k.dir); err == nil {
		return k, nil
	}
	if err := fetch(ctx, cache, name, k); err != nil {
		return kernel{}, fmt.Errorf("fetch %s: %w", name, err)
	}
	return k, nil
}

// packages lists the kernel packages of a series.
func packages(ctx context.Context, series string) ([]string, error) {
	pattern := `^linux-image-` + regexp.QuoteMeta(series) + `\.[^-]+(-[0-9]+)?-cloud-amd64$`
	out, err := output(ctx, "", "apt-cache", "search", "--names-only", pattern)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names, nil
}

// fetch downloads and unpacks a package; it is below cache whole or not at all.
func fetch(ctx context.Context, cache, name string, k kernel) (err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if _, err := output(ctx, work, "apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(fmt.Errorf("want one package, got %v", packages), err)
	}
	root := filepath.Join(work, "root")
	if _, err := output(ctx, work, "dpkg", "-x", packages[0], root); err != nil {
		return err
	}
	if err := mergeUsr(root); err != nil {
		return err
	}
	if _, err := output(ctx, work, "depmod", "-b", root, k.release); err != nil {
		return err
	}
	if err := os.Rename(root, k.dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // but for another guest that was quicker
	}
	return nil
}

// mergeUsr gives lib to packages that have their modules below usr/lib.
func mergeUsr(root string) error {
	if _, err := os.Stat(filepath.Join(root, "lib")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink("usr/lib", filepath.Join(root, "lib"))
}

var number = regexp.MustCompile(`[0-9]+`)

// compareVersions compares names by the numbers in them.
func compareVersions(a, b string) int {
	return slices.CompareFunc(number.FindAllString(a, -1), number.FindAllString(b, -1), func(a, b string) int {
		m, _ := strconv.Atoi(a)
		n, _ := strconv.Atoi(b)
		return cmp.Compare(m, n)
	})
}

// output runs a command in dir and returns what it says.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}
