// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"strings"
)

// expectations are what test/e2e/expected.txt says of upstream's tests.
type expectations struct {
	pass    map[string]bool   // those that must run and pass
	omitted map[string]string // why the others are left out
}

// names tells whether the list has the test.
func (x expectations) names(test string) bool {
	_, omitted := x.omitted[test]
	return x.pass[test] || omitted
}

// only returns those whose names contain tag.
func (x expectations) only(tag string) expectations {
	other := func(name string) bool { return !strings.Contains(name, tag) }
	x.pass, x.omitted = maps.Clone(x.pass), maps.Clone(x.omitted)
	maps.DeleteFunc(x.pass, func(name string, _ bool) bool { return other(name) })
	maps.DeleteFunc(x.omitted, func(name, _ string) bool { return other(name) })
	return x
}

// readExpected reads the list: a line "pass TEST" for each test demanded, and
// after each line "omit REASON" the tests that are left out for it, indented.
func readExpected(path string) (expectations, error) {
	x := expectations{pass: map[string]bool{}, omitted: map[string]string{}}
	f, err := os.Open(path)
	if err != nil {
		return x, err
	}
	defer f.Close()
	reason := ""
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimRight(s.Text(), " ")
		if line == "" || line[0] == '#' {
			continue
		}
		test, indented := strings.CutPrefix(line, "  ")
		verdict, rest, _ := strings.Cut(line, " ")
		switch {
		case indented && reason == "":
			return x, fmt.Errorf("%s:%d: %s is left out without a reason", path, n, test)
		case indented:
			x.omitted[test] = reason
		case verdict == "omit" && rest != "":
			reason = rest
			continue
		case verdict == "pass" && rest != "":
			test, reason = rest, ""
			x.pass[test] = true
		default:
			return x, fmt.Errorf("%s:%d: %q is neither pass nor omit", path, n, verdict)
		}
		if x.pass[test] && x.omitted[test] != "" {
			return x, fmt.Errorf("%s:%d: both demanded and left out: %s", path, n, test)
		}
	}
	return x, s.Err()
}
