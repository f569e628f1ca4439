// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript []byte

// bootModules are what the guest needs before it sees the shared root.
func bootModules() []string { return []string{"virtio_pci", "virtiofs", "overlay"} }

// passed are the variables that the command gets, by prefix.
func passed() []string { return []string{"PATH=", "HOME=", "TMPDIR=", "PATCHBAY_"} }

// writeInitrd writes the machine's initrd: busybox, the modules for boot, and
// the scripts that lead to the command.
func (m *machine) writeInitrd(args []string) (err error) {
	f, err := os.Create(m.initrd())
	if err != nil {
		return err
	}
	defer f.Close()
	w := &archive{w: bufio.NewWriter(f)}
	for _, dir := range []string{"bin", "dev", "host", "modules", "proc", "upper"} {
		w.add(dir, 0o40755, nil)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := w.addFile("bin/busybox", busybox); err != nil {
		return err
	}
	modules, err := m.moduleFiles()
	if err != nil {
		return err
	}
	for i, file := range modules {
		// Numbered: they are loaded in this order.
		if err := w.addFile(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(file)), file); err != nil {
			return err
		}
	}
	command, err := m.commandScript(args)
	if err != nil {
		return err
	}
	w.add("init", 0o100755, initScript)
	w.add("command", 0o100644, command)
	return w.close()
}

// moduleFiles lists the files of bootModules, each behind what it needs.
func (m *machine) moduleFiles() ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, module := range bootModules() {
		out, err := output(context.Background(), "", "modprobe", "-d", m.kernel.dir, "-S", m.kernel.release, "--show-depends", module)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if len(fields) > 1 && fields[0] == "insmod" && !seen[fields[1]] {
				seen[fields[1]] = true
				files = append(files, fields[1])
			}
		}
	}
	return files, nil
}

// commandScript is what the guest's shell runs on the shared root.
func (m *machine) commandScript(args []string) ([]byte, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, variable := range os.Environ() {
		for _, prefix := range passed() {
			if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(variable, prefix) {
				fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
			}
		}
	}
	fmt.Fprintf(&b, "ln -sfn %s /lib/modules/%s\n", quote(m.kernel.modules()), m.kernel.release)
	fmt.Fprintf(&b, "cd %s &&", quote(dir))
	for _, arg := range args {
		fmt.Fprintf(&b, " %s", quote(arg))
	}
	fmt.Fprintf(&b, "\necho %s$?\n", statusMark)
	return b.Bytes(), nil
}

// quote quotes a word for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// archive writes a cpio archive as the kernel unpacks it ("newc").
type archive struct {
	w     *bufio.Writer
	inode int
	err   error
}

func (a *archive) addFile(name, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a.add(name, 0o100755, data)
	return nil
}

func (a *archive) add(name string, mode int, data []byte) {
	a.inode++
	name = path.Clean(name)
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.write([]byte(header))
	a.write(data)
}

// write pads what it writes to four bytes.
func (a *archive) write(data []byte) {
	for _, part := range [][]byte{data, make([]byte, -len(data)&3)} {
		if a.err == nil {
			_, a.err = io.Copy(a.w, bytes.NewReader(part))
		}
	}
}

// close ends the archive and returns the first error of all.
func (a *archive) close() error {
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}
