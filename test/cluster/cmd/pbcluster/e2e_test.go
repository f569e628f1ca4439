// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadExpected(t *testing.T) {
	tests := []struct {
		name, text    string
		pass, omitted []string
		wantErr       string
	}{
		{"both verdicts", "# comment\npass a b\n\nomit no c here\n  c d\n  e\npass f\n", []string{"a b", "f"}, []string{"c d", "e"}, ""},
		{"unknown verdict", "pass a\nskip b\n", nil, nil, `:2: "skip"`},
		{"without a reason", "pass a\n  b\n", nil, nil, ":2: b is left out"},
		{"twice", "pass a\nomit it is hard\n  a\n", nil, nil, ":3: both"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "expected.txt")
			if err := os.WriteFile(path, []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := readExpected(path)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("want error with %s, got %v", tt.wantErr, err)
				}
				return
			}
			pass, omitted := slices.Sorted(maps.Keys(got.pass)), slices.Sorted(maps.Keys(got.omitted))
			if err != nil || !slices.Equal(pass, tt.pass) || !slices.Equal(omitted, tt.omitted) {
				t.Errorf("want %q and %q, got %q and %q, %v", tt.pass, tt.omitted, pass, omitted, err)
			}
		})
	}
}

func TestExpectedDemandsAllConformanceTests(t *testing.T) {
	expected, err := readExpected("../../../e2e/expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	conformance := expected.only("[Conformance]")
	if len(conformance.pass) != 47 || len(conformance.omitted) != 0 {
		t.Errorf("want 47 conformance tests, got %d and %d left out", len(conformance.pass), len(conformance.omitted))
	}
}

func TestJudge(t *testing.T) {
	result := func(name, state string) spec { return spec{LeafNodeText: name, State: state} }
	demand := func(names ...string) expectations {
		x := expectations{pass: map[string]bool{}, omitted: map[string]string{"left out": "why"}}
		for _, name := range names {
			x.pass[name] = true
		}
		return x
	}
	tests := []struct {
		name     string
		expected expectations
		specs    []spec
		ok       bool
		says     string
	}{
		{"all pass", demand("a"), []spec{result("a", "passed"), result("left out", "skipped")}, true, "1 ran, 1 passed, 0 skipped or absent, 1 left out"},
		{"a failure", demand("a"), []spec{result("a", "failed")}, false, "failed after 0 s: a"},
		{"a timeout", demand("a"), []spec{result("a", "timedout")}, false, "timedout after"},
		{"an absent one", demand("a", "b"), []spec{result("a", "passed")}, false, "1 ran, 1 passed, 1 skipped or absent"},
		{"a skipped one", demand("a", "b"), []spec{result("a", "passed"), result("b", "skipped")}, false, "skipped: b"},
		{"one that nobody knows", demand("a"), []spec{result("a", "passed"), result("new", "skipped")}, false, "doesn't know: new"},
		{"no list", expectations{}, []spec{result("a", "passed"), result("b", "skipped")}, true, "1 ran, 1 passed, 0 skipped"},
		{"no list, a failure", expectations{}, []spec{result("a", "failed")}, false, "1 ran, 0 passed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := &bytes.Buffer{}
			e := env{out: out, all: true}
			if err := e.judge(tt.expected, tt.specs); (err == nil) != tt.ok || !strings.Contains(out.String(), tt.says) {
				t.Errorf("want ok %v and %q, got %v and %s", tt.ok, tt.says, err, out)
			}
		})
	}
}
