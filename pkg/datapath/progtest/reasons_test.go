// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReasons holds that each drop reason has a packet that is dropped for it.
func TestReasons(t *testing.T) {
	untested := map[string]string{
		"DROP_NONE":       "no reason",
		"DROP_MAX":        "their number",
		"DROP_BUG":        "can't be",
		"DROP_REWRITE":    "no packet makes the helpers fail",
		"DROP_FLOWS_FULL": "an LRU table always has room",
		"DROP_PORT_CLASH": "six tries that all clash",
	}
	generated, err := os.ReadFile("../objects/map_bpfel.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	for _, m := range regexp.MustCompile(`MapDropReason(DROP_\w+)\s+MapDropReason =`).FindAllStringSubmatch(string(generated), -1) {
		tested := strings.Contains(tests.String(), "objects.MapDropReason"+m[1])
		if why, known := untested[m[1]]; !tested && !known {
			t.Errorf("no packet is dropped for %s", m[1])
		} else if tested && known && m[1] != "DROP_NONE" {
			t.Errorf("%s is tested: %q is out of date", m[1], why)
		}
	}
}
