// SPDX-License-Identifier: Apache-2.0

// Package arch holds the tests that keep the tree in the shape of its plan:
// who may import what, how large things may grow, what each file opens with.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The sizes to hold, in lines.
const (
	maxGoFile       = 700
	maxGoFunc       = 80
	maxCFunc        = 100
	maxHook         = 60
	maxHeader       = 250
	maxAgentMain    = 150
	maxCNIMain      = 30
	maxPackageFiles = 12
	maxPackageLines = 1500
	maxCNIBinary    = 4 << 20
)

var generated = regexp.MustCompile(`(?m)^(// Code generated .* DO NOT EDIT\.|/\* Code generated)`)

// source is a tracked file that is written by hand.
type source struct {
	path string
	text []byte
}

// lines counts the file's lines.
func (s source) lines() int { return strings.Count(string(s.text), "\n") }

// sources returns the tracked, hand-written files with one of the extensions, by their path in the tree.
func sources(t *testing.T, extensions ...string) []source {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var files []source
	for path := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if !endsIn(path, extensions) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if !generated.Match(text) {
			files = append(files, source{path, text})
		}
	}
	return files
}

func endsIn(path string, extensions []string) bool {
	for _, e := range extensions {
		if strings.HasSuffix(path, e) {
			return true
		}
	}
	return false
}

func TestGoSizes(t *testing.T) {
	mains := map[string]int{"cmd/patchbayd/main.go": maxAgentMain, "cmd/patchbay/main.go": maxCNIMain}
	for _, s := range sources(t, ".go") {
		limit, ok := mains[s.path]
		if !ok {
			limit = maxGoFile
		}
		if n := s.lines(); n > limit {
			t.Errorf("%s: %d lines, at most %d", s.path, n, limit)
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, s.path, s.text, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%s: %v", s.path, err)
			continue
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil || strings.HasSuffix(s.path, "_test.go") { // a table may be long
				continue
			}
			if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxGoFunc {
				t.Errorf("%s: func %s: %d lines, at most %d", s.path, f.Name.Name, n, maxGoFunc)
			}
		}
	}
}

// larger are the packages that may be larger than others, and why.
func larger() map[string]string {
	return map[string]string{
		"pkg/api/v1alpha1":           "one version of an API group is one package",
		"pkg/kube":                   "the one importer of client-go: what it gave away would import it, too",
		"test/cluster/cmd/pbcluster": "one command's verbs",
		"test/cluster/internal/lab":  "one cluster's machinery: nodes, certificates, components",
	}
}

func TestPackageSizes(t *testing.T) {
	files, lines := map[string]int{}, map[string]int{}
	for _, s := range sources(t, ".go") {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		dir := filepath.Dir(s.path)
		files[dir]++
		lines[dir] += s.lines()
	}
	for dir := range files {
		if larger()[dir] == "" && (files[dir] > maxPackageFiles || lines[dir] > maxPackageLines) {
			t.Errorf("%s: %d files with %d lines, at most %d with %d: give a part away", dir, files[dir], lines[dir], maxPackageFiles, maxPackageLines)
		}
	}
}

func TestCSizes(t *testing.T) {
	for _, s := range sources(t, ".c", ".h") {
		if n := s.lines(); strings.HasSuffix(s.path, ".h") && n > maxHeader {
			t.Errorf("%s: %d lines, at most %d", s.path, n, maxHeader)
		}
		limit, what := maxCFunc, "function"
		if strings.HasSuffix(s.path, ".bpf.c") {
			limit, what = maxHook, "hook"
		}
		for line, n := range cFunctions(string(s.text)) {
			if n > limit {
				t.Errorf("%s:%d: %s of %d lines, at most %d", s.path, line, what, n, limit)
			}
		}
	}
}

// cFunctions returns the length of each function by the line of its opening
// brace, which kernel style puts alone at the start of a line.
func cFunctions(text string) map[int]int {
	functions := map[int]int{}
	open, number := 0, 0
	for line := range strings.Lines(text) {
		number++
		switch strings.TrimRight(line, "\n") {
		case "{":
			open = number
		case "}":
			if open > 0 {
				functions[open] = number - open + 1
			}
			open = 0
		}
	}
	return functions
}

func TestLicenceLines(t *testing.T) {
	for _, s := range sources(t, ".go", ".c", ".h", ".sh") {
		want := "SPDX-License-Identifier: Apache-2.0"
		if strings.HasPrefix(s.path, "bpf/") {
			want = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"
		}
		head := s.text[:min(len(s.text), 160)]
		if !strings.Contains(string(head), want) {
			t.Errorf("%s doesn't open with %q", s.path, want)
		}
	}
}

// TestNetIP keeps net.IP where netlink and CNI results need it.
func TestNetIP(t *testing.T) {
	use := regexp.MustCompile(`\bnet\.(IP|IPNet|IPMask|ParseIP|ParseCIDR)\b`)
	for _, s := range sources(t, ".go") {
		if under(s.path, []string{"pkg/netdev", "plugins", "test"}) || strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		number := 0
		for line := range strings.Lines(string(s.text)) {
			number++
			code, _, _ := strings.Cut(line, "//")
			if m := use.FindString(code); m != "" {
				t.Errorf("%s:%d: %s: use net/netip", s.path, number, m)
			}
		}
	}
}
