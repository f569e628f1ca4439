// SPDX-License-Identifier: Apache-2.0

package main

import (
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
// expression in args and not the second, which must all pass, or those that
// test/e2e/expected.txt demands. Of these each must run and pass, and the list
// must name every test there is.
func (e *env) endToEnd(ctx context.Context, l *lab.Lab, args []string) error {
	if len(args) > 0 {
		args = append(args, "")
		specs, err := e.ginkgo(ctx, l, args[0], args[1])
		if err != nil {
			return err
		}
		return e.judge(expectations{}, specs)
	}
	expected, err := e.expectations()
	if err != nil {
		return err
	}
	specs, err := e.ginkgo(ctx, l, focus(slices.Collect(maps.Keys(expected.pass))), "")
	if err != nil {
		return err
	}
	return e.judge(expected, specs)
}

// expectations are those of test/e2e/expected.txt, of the conformance tests
// alone unless all are asked for.
func (e *env) expectations() (expectations, error) {
	expected, err := readExpected(filepath.Join(e.root, "test/e2e/expected.txt"))
	if !e.all {
		expected = expected.only("[Conformance]")
	}
	return expected, err
}

// focus is a regular expression of exactly these names.
func focus(names []string) string {
	slices.Sort(names)
	for i, name := range names {
		names[i] = regexp.QuoteMeta(name)
	}
	return " (" + strings.Join(names, "|") + ") *$" // ginkgo puts the suite's name before
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
	return strings.TrimSpace(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "))
}

// ran tells whether the test was chosen and found what it needs.
func (s spec) ran() bool { return s.State != "skipped" && s.State != "pending" }

// ginkgo runs the tests that match focus and not skip on the control plane, six
// at a time, and those that want the cluster for themselves after them. It
// returns all tests, with those that were not chosen.
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
	var specs []spec
	for _, r := range reports {
		specs = append(specs, r.SpecReports...)
	}
	specs = slices.DeleteFunc(specs, func(s spec) bool {
		return s.LeafNodeType != "It" || !strings.HasPrefix(s.name(), "[sig-network]")
	})
	if !slices.ContainsFunc(specs, spec.ran) {
		return nil, fmt.Errorf("e2e: no test ran: %s", lastLines(tail.String(), 3))
	}
	return specs, nil
}

// judge prints the counts and what differs from expected; without a list all
// that ran must pass.
func (e *env) judge(expected expectations, specs []spec) error {
	ran, passed, missing, wrong := 0, 0, 0, 0
	left := maps.Clone(expected.pass)
	for _, s := range specs {
		name := s.name()
		_, demanded := expected.pass[name]
		switch {
		case s.ran():
			ran++
			delete(left, name)
			if s.State == "passed" {
				passed++
				break
			}
			wrong++
			fmt.Fprintf(e.out, "e2e: %s after %.0f s: %s\n\t%s\n", s.State, float64(s.RunTime)/1e9, name, firstLine(s.Failure.Message))
		case demanded:
			missing++
			delete(left, name)
			fmt.Fprintf(e.out, "e2e: skipped: %s\n\t%s\n", name, firstLine(s.Failure.Message))
		case e.all && expected.pass != nil && !expected.names(name):
			wrong++
			fmt.Fprintf(e.out, "e2e: expected.txt doesn't know: %s\n", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		missing++
		fmt.Fprintf(e.out, "e2e: absent: %s\n", name)
	}
	fmt.Fprintf(e.out, "e2e: %d ran, %d passed, %d skipped or absent", ran, passed, missing)
	if n := len(expected.omitted); n > 0 {
		fmt.Fprintf(e.out, ", %d left out for a reason", n)
	}
	fmt.Fprintln(e.out)
	if wrong += missing; wrong > 0 {
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
