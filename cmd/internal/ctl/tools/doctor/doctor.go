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

	"golang.org/x/sys/unix"

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
	Why      string   `json:"why"`    // it matters
	Remedy   []string `json:"remedy"` // commands, or what to do
}

// Env is where the doctor looks.
type Env struct {
	Root  string // before /etc, /sys and /run, for tests; empty: the machine's own
	Proc  string // the proc file system; empty: /proc
	Agent agentapi.Client
	// Clock reads the kernel's clock, and Features the receive features of a NIC;
	// nil: the kernel's own.
	Clock    func(*unix.Timex) error
	Features func(nic string) (uint32, error)
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
	topic    string // of the check that is made
	why      string // it is
}

// Examine looks at everything. A check that can't be made is itself a finding.
func Examine(ctx context.Context, env Env) Report {
	env.Proc = cmp.Or(env.Proc, "/proc")
	w := &ward{Env: env}
	w.ask(ctx)
	return w.examine([]check{
		{"agent", "what it can't do stays undone, and what changes isn't followed", w.agent},
		{"kernel", "Patchbay's programs need it", w.kernel},
		{"cgroup", "sockets are balanced by programs on it", w.cgroup},
		{"sysctl", "the kernel itself drops or changes packets by it", w.sysctls},
		{"clock", "certificates and logs suffer; who holds an address doesn't depend on it", w.clock},
		{"networkd", "pods' and custom routes would go when it restarts", w.networkd},
		{"processes", "two programs would serve the same packets, and undo each other's work", w.processes},
		{"ports", "what listens there serves Services or addresses, too", w.ports},
		{"rules", "they translate and drop packets before Patchbay sees them", w.rules},
		{"ipsets", "rules that still name them filter or masquerade pods' packets", w.ipsets},
		{"ipvs", "it takes Services' packets", w.ipvs},
		{"interfaces", "they keep addresses, routes and programs that draw packets away", w.interfaces},
		{"cni", "the runtime takes the configuration that sorts first", w.cni},
		{"files", "they serve nobody, and a stale one may be taken for the truth", w.leftFiles},
		{"bpf", "such programs go on without the agent that loaded them", w.pins},
		{"nics", "addresses are announced and replies sent by the NICs' roles", w.roles},
		{"mtu", "larger packets are lost: connections begin, and then stand still", w.mtus},
		{"offloads", "what is forwarded of merged packets is lost", w.offloads},
		{"ranges", "packets to pods would go astray", w.ranges},
	})
}

// check is one part of an examination.
type check struct {
	topic, why string
	run        func() error
}

// examine makes the checks and sorts what they find, the worst first.
func (w *ward) examine(checks []check) Report {
	var r Report
	for _, c := range checks {
		w.topic, w.why = c.topic, c.why
		r.Checked = append(r.Checked, c.topic)
		if err := c.run(); err != nil {
			w.found(Warning, []string{"look at it by hand, and run doctor again as root in the node's own namespaces"}, "could not be looked at: %v", err)
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
	w.findings = append(w.findings, Finding{Severity: s, Topic: w.topic, Text: fmt.Sprintf(format, args...), Why: w.why, Remedy: remedy})
}

// foundOnce is found, where one finding may come up several times.
func (w *ward) foundOnce(s Severity, remedy []string, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.ContainsFunc(w.findings, func(f Finding) bool { return f.Topic == w.topic && f.Text == text }) {
		w.found(s, remedy, "%s", text)
	}
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
		w.found(Error, []string{"kubectl -n patchbay-system get pods -o wide", "kubectl -n patchbay-system logs -l app.kubernetes.io/name=patchbayd"},
			"the agent doesn't answer: %v; what it has put in force goes on, and nothing changes any more", w.noAgent)
		return nil
	}
	if !w.info.Ready {
		w.found(Error, []string{"patchbayctl status", "patchbayctl events"}, "the agent is not ready: %s", w.info.Reason)
	}
	for _, p := range w.info.Problems {
		w.found(Warning, []string{"mend " + p.Object + "; patchbayctl events has more"}, "%s: %s", p.Object, p.Text)
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
