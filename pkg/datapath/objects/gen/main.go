// SPDX-License-Identifier: Apache-2.0

// Gen compiles bpf/*.bpf.c into package objects, or, with -verify, compiles
// them beside it and reports what differs.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	objectsDir  = "pkg/datapath/objects"
	versionFile = "CLANG"
)

func main() {
	verify := flag.Bool("verify", false, "compare with what is committed, write nothing")
	clang := flag.String("clang", "", "compiler to run (default: clang-19, else clang)")
	flag.Parse()
	if err := run(*verify, *clang); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(verify bool, clang string) error {
	root, err := output("go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	c, err := newCompiler(clang)
	if err != nil {
		return err
	}
	if verify {
		return check(c)
	}
	return install(c)
}

// install compiles elsewhere and then replaces what is committed, so that C
// that doesn't compile leaves the Go packages buildable.
func install(c *compiler) error {
	dir, err := os.MkdirTemp(objectsDir, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := generate(c, dir); err != nil {
		return err
	}
	made, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range made {
		if err := os.Rename(filepath.Join(dir, file.Name()), filepath.Join(objectsDir, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// generate compiles every hook's file into dir and records the compiler.
func generate(c *compiler, dir string) error {
	sources, err := filepath.Glob("bpf/*.bpf.c")
	if err != nil {
		return err
	}
	for _, source := range sources {
		if err := c.compile(source, dir); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, versionFile), []byte(c.version+"\n"), 0o644)
}

// compiler runs bpf2go of the pinned cilium/ebpf module.
type compiler struct {
	clang, version string
	cflags         []string
}

func newCompiler(clang string) (*compiler, error) {
	if clang == "" {
		clang = "clang-19"
		if _, err := exec.LookPath(clang); err != nil {
			clang = "clang"
		}
	}
	version, err := output(clang, "--version")
	if err != nil {
		return nil, err
	}
	version, _, _ = strings.Cut(version, "\n")
	headers, err := output("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cilium/ebpf")
	if err != nil {
		return nil, err
	}
	asm, err := filepath.Glob("/usr/include/*-linux-gnu/asm/types.h")
	if err != nil || len(asm) == 0 {
		return nil, errors.New("no /usr/include/*-linux-gnu/asm/types.h: install linux-libc-dev")
	}
	return &compiler{clang: clang, version: version, cflags: []string{
		"-O2", "-g", "-Wall", "-Wextra", "-Werror", "-mcpu=v3",
		"-I" + filepath.Join(headers, "examples/headers"),
		"-idirafter", filepath.Dir(filepath.Dir(asm[0])),
		// Line info names headers: keep this machine's paths out of it.
		"-ffile-prefix-map=" + headers + "=ebpf",
		"-ffile-prefix-map=" + filepath.Dir(filepath.Dir(asm[0])) + "=include",
	}}, nil
}

// compile writes <stem>_bpfel.go and .o of one source file to dir.
func (c *compiler) compile(source, dir string) error {
	stem := strings.TrimSuffix(filepath.Base(source), ".bpf.c")
	args := []string{
		"run", "github.com/cilium/ebpf/cmd/bpf2go", "-cc", c.clang, "-target", "bpfel",
		"-go-package", "objects", "-output-dir", dir, "-output-stem", stem,
	}
	if stem == "map" {
		types, err := enumNames("bpf/lib/types.h", "bpf/lib/flowtypes.h", "bpf/lib/reasons.h")
		if err != nil {
			return err
		}
		for _, name := range types {
			args = append(args, "-type", name)
		}
	} else {
		args = append(args, "-no-global-types")
	}
	args = append(args, identifier(stem), source, "--")
	cmd := exec.Command("go", append(args, c.cflags...)...)
	cmd.Stderr = os.Stderr
	if out, err := cmd.Output(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", source, err, out)
	}
	return nil
}

// enumNames lists the named enums of the headers: their Go constants are
// generated even where no map's value has the type.
func enumNames(headers ...string) ([]string, error) {
	var names []string
	for _, header := range headers {
		text, err := os.ReadFile(header)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 3 && f[0] == "enum" && f[2] == "{" {
				names = append(names, f[1])
			}
		}
	}
	return names, nil
}

// identifier turns tc_pod into TcPod.
func identifier(stem string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(stem, "_") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
