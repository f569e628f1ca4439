// SPDX-License-Identifier: Apache-2.0

// Package site raises what Patchbay is for, out of namespaces: a device with two
// ports and its two switches, nodes with a leg on each, their agents and the
// controller, and pods that come and go by CNI. Objects are a folder of YAML;
// there is no Kubernetes. The demo and the measurements stand on it.
package site

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// Site is a device, its nodes and the folder of their objects.
type Site struct {
	tb  netlab.TB
	bin string
	dir string

	Device *netlab.Node
	// Internet is behind the device's port 2, where its default route leads.
	Internet *netlab.Namespace
	// Client is behind port 3, which the external switch is bridged to.
	Client *netlab.Namespace
	Nodes  []*Node
}

// New returns an empty site. Programs are taken from bin; objects, status and
// logs go below dir, which every node must see by that path.
func New(tb netlab.TB, bin, dir string) *Site {
	tb.Helper()
	s := &Site{tb: tb, bin: bin, dir: dir}
	for _, d := range []string{s.objects(), s.status(), s.Logs()} {
		s.must(os.MkdirAll(d, 0o755), "make directory")
	}
	return s
}

func (s *Site) objects() string { return filepath.Join(s.dir, "objects") }
func (s *Site) status() string  { return filepath.Join(s.dir, "status") }

// Logs is the directory of the programs' logs.
func (s *Site) Logs() string { return filepath.Join(s.dir, "log") }

// Program returns the path of a program of ours.
func (s *Site) Program(name string) string { return filepath.Join(s.bin, name) }

// must fails the test on an error.
func (s *Site) must(err error, what string) {
	if err != nil {
		s.tb.Helper()
		s.tb.Fatalf("%s: %v", what, err)
	}
}

// log opens the log of a program, which goes on where it is started again.
func (s *Site) log(name string) io.Writer {
	f, err := os.OpenFile(filepath.Join(s.Logs(), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	s.must(err, "open log")
	s.tb.Cleanup(func() { f.Close() })
	return f
}

// write writes a file at once, so that who watches the folder never sees half of it.
func (s *Site) write(path, text string) {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	s.must(os.MkdirAll(filepath.Dir(path), 0o755), "make directory")
	s.must(os.WriteFile(temp, []byte(strings.TrimLeft(text, "\n")), 0o644), "write "+path)
	s.must(os.Rename(temp, path), "write "+path)
}

// Declare writes objects, as YAML documents, to a file of the folder.
func (s *Site) Declare(name, yaml string) { s.write(filepath.Join(s.objects(), name+".yaml"), yaml) }

// Undeclare takes a file of the folder away.
func (s *Site) Undeclare(name string) {
	s.must(os.Remove(filepath.Join(s.objects(), name+".yaml")), "undeclare "+name)
}

// installCNI puts the plugins where the node's runtime looks for them.
func (s *Site) installCNI(node *netlab.Node) {
	node.Exec(s.tb, s.Program("patchbayd"), "install-cni", "--dir", "/opt/cni/bin")
}
