// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"slices"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	socket := serve(t, handler())
	tests := []struct {
		args []string
		want []string
	}{
		{[]string{"tra"}, []string{"trace"}},
		{[]string{"pods", ""}, []string{"default/web-1", "web-1", "10.244.0.5", "fd00:244::5", "10.244.0.6"}},
		{[]string{"services", "default/"}, []string{"default/web", "default/db"}},
		{[]string{"nics", "eth1"}, []string{"eth1"}},
		{[]string{"drops", "NO"}, []string{"NO_ROUTE"}},
		{[]string{"nics", "-o", ""}, formats()},
		{[]string{"completion", "z"}, []string{"zsh"}},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			out, stderr, code := call(t, append([]string{"__complete", "--socket", socket}, test.args...)...)
			var got []string
			for line := range strings.Lines(out) {
				if name, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); name != "" && name[0] != ':' {
					got = append(got, name)
				}
			}
			if code != exitOK || !slices.Equal(got, test.want) {
				t.Errorf("want %v, got %v (exit %d: %s)", test.want, got, code, stderr)
			}
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, code := call(t, "completion", shell); code != exitOK || !strings.Contains(out, "patchbayctl") {
			t.Errorf("%s: exit %d, %d bytes", shell, code, len(out))
		}
	}
	if _, _, code := call(t, "completion", "tcsh"); code != exitUsage {
		t.Errorf("unknown shell: exit %d, want %d", code, exitUsage)
	}
}
