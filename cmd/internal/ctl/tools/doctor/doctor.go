// SPDX-License-Identifier: Apache-2.0

// Package doctor looks for what keeps Patchbay from working on a node, or will:
// what the kernel lacks, settings, what other network software has left behind,
// contradictions. Each finding says what to do. It changes nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Severity is how bad a finding is.
type Severity string

// The severities, the worst first.
const (
	Error   Severity = "error"   // something doesn't work
	Warning Severity = "warning" // something may not work, or not for long
	Note    Severity = "note"    // good to know
)

// Finding is one thing that was found.
type Finding struct {
	Severity Severity `json:"severity"`
	Topic    string   `json:"topic"`
	Text     string   `json:"text"`
	Remedy   []string `json:"remedy,omitempty"` // what to do, or commands
}

// Env is where the doctor looks.
type Env struct {
	Root  string // before /etc, /sys and /run, for tests; empty: the machine's own
	Proc  string // the proc file system; empty: /proc
	Agent agentapi.Client
}

// Report is what came out.
type Report struct {
	Findings []Finding `json:"findings"`
	Checked  []string  `json:"checked"` // the topics that were looked at
}

// Bad tells whether anything doesn't work.
func (r Report) Bad() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Error })
}

// ward is one examination.
type ward struct {
	Env
	info     agentapi.Info
	nics     []agentapi.NIC
	noAgent  error
	findings []Finding
	topic    string
}

// Examine looks at everything. A check that can't be made is itself a finding.
func Examine(ctx context.Context, env Env) Report {
	env.Proc = cmp.Or(env.Proc, "/proc")
	w := &ward{Env: env}
	w.ask(ctx)
	var r Report
	for _, check := range []struct {
		topic string
		run   func() error
	}{
		{"agent", w.agent},
		{"kernel", w.kernel},
		{"cgroup", w.cgroup},
		{"sysctl", w.sysctls},
		{"clock", w.clock},
		{"networkd", w.networkd},
		{"processes", w.processes},
		{"rules", w.rules},
		{"ipvs", w.ipvs},
		{"interfaces", w.interfaces},
		{"cni", w.cni},
		{"bpf", w.pins},
		{"nics", w.roles},
		{"mtu", w.mtus},
		{"offloads", w.offloads},
		{"ranges", w.ranges},
	} {
		w.topic = check.topic
		r.Checked = append(r.Checked, check.topic)
		if err := check.run(); err != nil {
			w.found(Warning, nil, "could not be looked at: %v", err)
		}
	}
	r.Findings = w.findings
	order := []Severity{Error, Warning, Note}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	return r
}

func (w *ward) found(s Severity, remedy []string, format string, args ...any) {
	w.findings = append(w.findings, Finding{Severity: s, Topic: w.topic, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// ask asks the agent for what the checks compare with.
func (w *ward) ask(ctx context.Context) {
	if w.info, w.noAgent = w.Agent.Info(ctx); w.noAgent != nil {
		return
	}
	w.nics, w.noAgent = w.Agent.NICs(ctx)
}

func (w *ward) agent() error {
	if w.noAgent != nil {
		w.found(Error, []string{"kubectl -n patchbay-system get pods -o wide", "kubectl -n patchbay-system logs -l app=patchbayd"},
			"the agent doesn't answer: %v; what it has put in force goes on, and nothing changes any more", w.noAgent)
		return nil
	}
	if !w.info.Ready {
		w.found(Error, nil, "the agent is not ready: %s", w.info.Reason)
	}
	for _, p := range w.info.Problems {
		w.found(Warning, nil, "%s: %s", p.Object, p.Text)
	}
	return nil
}

// path is a file below the root.
func (w *ward) path(p string) string { return filepath.Join(w.Root, p) }

// read reads a file; one that isn't there is empty.
func (w *ward) read(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// podRanges are the ranges of the node's pods.
func (w *ward) podRanges() []netip.Prefix { return w.info.PodCIDRs }

// managed are the NICs that have a role.
func (w *ward) managed() []agentapi.NIC {
	return slices.DeleteFunc(slices.Clone(w.nics), func(n agentapi.NIC) bool { return n.Role == "ignored" || n.Role == "" })
}
