// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadExpected(t *testing.T) {
	tests := []struct {
		name, text string
		want       map[string]bool
		wantErr    string
	}{
		{"both verdicts", "# comment\npass a b\ntodo c\n  why c\n\n", map[string]bool{"a b": true, "c": false}, ""},
		{"unknown verdict", "pass a\nskip b\n", nil, `:2: "skip"`},
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
			if err != nil || !maps.Equal(got, tt.want) {
				t.Errorf("want %v, got %v, %v", tt.want, got, err)
			}
		})
	}
}

func TestExpectedNamesAllConformanceTests(t *testing.T) {
	expected, err := readExpected("../../../e2e/expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	conformance := 0
	for name := range expected {
		if strings.Contains(name, "[Conformance]") {
			conformance++
		}
	}
	if conformance != 47 {
		t.Errorf("want 47 conformance tests, got %d", conformance)
	}
}

func TestJudge(t *testing.T) {
	result := func(name, state string) spec { return spec{LeafNodeText: name, State: state} }
	tests := []struct {
		name     string
		expected map[string]bool
		ran      []spec
		ok       bool
	}{
		{"all pass", map[string]bool{"a": true}, []spec{result("a", "passed")}, true},
		{"a failure", map[string]bool{"a": true}, []spec{result("a", "failed")}, false},
		{"a timeout", map[string]bool{"a": true}, []spec{result("a", "timedout")}, false},
		{"an absent one", map[string]bool{"a": true, "b": true}, []spec{result("a", "passed")}, false},
		{"an absent one that needn't pass", map[string]bool{"a": true, "b": false}, []spec{result("a", "passed")}, false},
		{"a failure that is known", map[string]bool{"a": false}, []spec{result("a", "failed")}, true},
		{"no list, a failure", nil, []spec{result("a", "failed")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := env{out: &bytes.Buffer{}}
			if err := e.judge(tt.expected, tt.ran); (err == nil) != tt.ok {
				t.Errorf("want ok %v, got %v", tt.ok, err)
			}
		})
	}
}
