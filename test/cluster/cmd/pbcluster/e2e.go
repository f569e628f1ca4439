// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

// endToEnd runs upstream's tests: those whose names match the first regular
// expression in args and not the second, or those that test/e2e/expected.txt
// names. In the latter case each must run, and those that it says pass must
// pass.
func (e *env) endToEnd(ctx context.Context, l *lab.Lab, args []string) error {
	expected, err := readExpected(filepath.Join(e.root, "test/e2e/expected.txt"))
	if err != nil {
		return err
	}
	if !e.all {
		maps.DeleteFunc(expected, func(name string, _ bool) bool { return !strings.Contains(name, "[Conformance]") })
	}
	var focus, skip string
	switch len(args) {
	case 2:
		focus, skip = args[0], args[1]
	case 1:
		focus = args[0]
	default:
		names := slices.Sorted(maps.Keys(expected))
		for i, name := range names {
			names[i] = regexp.QuoteMeta(name)
		}
		focus = " (" + strings.Join(names, "|") + ")$" // ginkgo puts the suite's name before
	}
	results, err := e.ginkgo(ctx, l, focus, skip)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return e.judge(expected, results)
	}
	return e.judge(nil, results)
}

// readExpected returns whether each test of the list must pass.
func readExpected(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	expected := map[string]bool{}
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line := s.Text()
		if line == "" || line[0] == '#' || line[0] == ' ' {
			continue
		}
		verdict, name, _ := strings.Cut(line, " ")
		if verdict != "pass" && verdict != "todo" {
			return nil, fmt.Errorf("%s:%d: %q is neither pass nor todo", path, n, verdict)
		}
		expected[name] = verdict == "pass"
	}
	return expected, s.Err()
}

// spec is the part of ginkgo's report that matters here.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	RunTime                 int64
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

// ginkgo runs the tests that match focus and not skip on the control plane, six
// at a time. It returns those that were chosen to run.
func (e *env) ginkgo(ctx context.Context, l *lab.Lab, focus, skip string) ([]spec, error) {
	dir := filepath.Join(l.Dir, "e2e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	cmd, err := l.Tests(ctx, dir, focus, skip)
	if err != nil {
		return nil, err
	}
	var tail bytes.Buffer
	log, err := os.Create(filepath.Join(dir, "ginkgo.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout = io.MultiWriter(log, &tail)
	cmd.Stderr = cmd.Stdout
	runErr := cmd.Run()
	data, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return nil, fmt.Errorf("e2e: %w: %s", runErr, lastLines(tail.String(), 20))
	}
	var reports []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &reports); err != nil {
		return nil, fmt.Errorf("e2e report: %w", err)
	}
	var ran []spec
	for _, r := range reports {
		for _, s := range r.SpecReports {
			if s.LeafNodeType == "It" && s.State != "skipped" {
				ran = append(ran, s)
			}
		}
	}
	if len(ran) == 0 {
		return nil, fmt.Errorf("e2e: no test ran: %s", lastLines(tail.String(), 3))
	}
	return ran, nil
}

// judge prints the counts and what differs from expected; without a list all
// that ran must pass.
func (e *env) judge(expected map[string]bool, ran []spec) error {
	passed, wrong := 0, 0
	must := func(name string) bool { return expected == nil || expected[name] }
	left := maps.Clone(expected)
	for _, s := range ran {
		name := s.name()
		delete(left, name)
		switch ok := s.State == "passed"; {
		case ok:
			passed++
			if !must(name) {
				fmt.Fprintf(e.out, "e2e: passes, so say pass in expected.txt: %s\n", name)
			}
		case must(name):
			wrong++
			fmt.Fprintf(e.out, "e2e: %s after %.0f s: %s\n\t%s\n", s.State, float64(s.RunTime)/1e9, name, firstLine(s.Failure.Message))
		default:
			fmt.Fprintf(e.out, "e2e: %s, as expected: %s\n", s.State, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		wrong++
		fmt.Fprintf(e.out, "e2e: did not run: %s\n", name)
	}
	fmt.Fprintf(e.out, "e2e: %d ran, %d passed, %d absent or skipped\n", len(ran), passed, len(left))
	if wrong > 0 {
		return fmt.Errorf("e2e: %d tests are not as expected", wrong)
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
