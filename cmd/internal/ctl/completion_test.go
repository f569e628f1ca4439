// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/output"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
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
		{[]string{"nics", "-o", ""}, output.Formats()},
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

// What is new is added under one head, each event once.
func TestEvents(t *testing.T) {
	h := handler()
	h[agentapi.OpEvents] = agentapi.Do(func(_ context.Context, after agentapi.EventsAfter) ([]agentapi.Event, error) {
		return []agentapi.Event{{Number: after.Number + 1, Time: now(), Level: "INFO", Text: fmt.Sprintf("event %d", after.Number+1), Details: "node=a"}}, nil
	})
	socket := serve(t, h)
	var out, errs bytes.Buffer
	looks := 0
	e := env{stdout: &out, stderr: &errs, now: now, wait: func(context.Context, time.Duration) error {
		if looks++; looks == 3 {
			return context.Canceled
		}
		return nil
	}}
	code := run(t.Context(), e, "patchbayctl", []string{"events", "--watch", "--socket", socket})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if code != exitOK || len(lines) != 4 || !strings.HasPrefix(lines[0], "TIME") || !strings.Contains(lines[3], "event 3   node=a") {
		t.Errorf("exit %d, %q %s", code, lines, errs.String())
	}
}

// Without an agent and with a kubeconfig, Kubernetes is asked; a file that can't
// be read is an error, and the caller's.
func TestServerFile(t *testing.T) {
	for _, args := range [][]string{{"status", "--server=/nonexistent"}, {"services", "--server"}} {
		t.Setenv("KUBECONFIG", "/nonexistent/config")
		if _, stderr, code := call(t, args...); code != exitError || !strings.Contains(stderr, "/nonexistent") {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
	}
}
