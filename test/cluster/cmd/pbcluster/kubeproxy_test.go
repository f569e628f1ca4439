// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What kube-proxy passes on the same machine is not left out.
func TestExpectedLeavesNothingToKubeProxy(t *testing.T) {
	expected, err := readExpected("../../../e2e/expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile("../../../e2e/kube-proxy.txt")
	if err != nil {
		t.Fatal(err)
	}
	became := map[string]string{}
	for line := range strings.Lines(string(record)) {
		if state, name, _ := strings.Cut(strings.TrimSpace(line), " "); state != "#" {
			became[name] = state
		}
	}
	beyond := regexp.MustCompile(beyondKubeProxy)
	itself := regexp.MustCompile(`after restarting kube-proxy|KubeProxy should set TCP CLOSE_WAIT`) // of kube-proxy's own pods and sysctls
	for name, reason := range expected.omitted {
		switch state := became[name]; {
		case beyond.MatchString(name):
		case state == "":
			t.Errorf("what does kube-proxy make of %s?", name)
		case state == "passed" && !itself.MatchString(name):
			t.Errorf("kube-proxy passes what is left out (%s): %s", reason, name)
		}
	}
}
