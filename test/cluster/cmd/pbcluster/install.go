// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
	"github.com/patchbay-net/patchbay/test/cluster/manifests"
)

// install puts Patchbay on the cluster as an operator would, and the DNS
// that every cluster has.
func (e *env) install(ctx context.Context, l *lab.Lab) error {
	if err := e.image(ctx); err != nil {
		return err
	}
	if err := l.Import(ctx, e.imagePath()); err != nil {
		return err
	}
	if err := l.Kubectl(ctx, "apply", "--server-side", "-f", e.deploy("crds")).Run(); err != nil {
		return fmt.Errorf("apply deploy/crds: %w", err)
	}
	steps := [][]string{
		{"wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"},
		{"apply", "--server-side", "-f", e.deploy("patchbay.yaml")},
	}
	if err := e.kubectl(ctx, l, steps...); err != nil {
		return err
	}
	site, err := siteManifest(l)
	if err != nil {
		return err
	}
	if err := l.Apply(ctx, bytes.NewReader(site)); err != nil {
		return err
	}
	if err := e.installDNS(ctx, l); err != nil {
		return err
	}
	return e.kubectl(ctx, l,
		[]string{"-n", "patchbay-system", "rollout", "status", "daemonset/patchbayd", "--timeout=90s"},
		[]string{"wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"},
		[]string{"-n", "patchbay-system", "rollout", "status", "deployment/patchbay-controller", "--timeout=60s"},
		[]string{"-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s"})
}

// installDNS starts the cluster's DNS.
func (e *env) installDNS(ctx context.Context, l *lab.Lab) error {
	dns, err := manifests.Files.ReadFile("coredns.yaml")
	if err != nil {
		return err
	}
	return l.Apply(ctx, bytes.NewReader(dns))
}

func (e *env) deploy(name string) string { return filepath.Join(e.root, "deploy", name) }

// siteManifest is what differs from one site to the next.
func siteManifest(l *lab.Lab) ([]byte, error) {
	t, err := template.ParseFS(manifests.Files, "site.yaml.tmpl")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, l.Site())
	return out.Bytes(), err
}

// kubectl runs each line of arguments in turn, quietly unless one fails.
func (e *env) kubectl(ctx context.Context, l *lab.Lab, lines ...[]string) error {
	for _, args := range lines {
		if out, err := l.Kubectl(ctx, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// uninstall takes Patchbay off as deploy/uninstall.yaml says, and looks on
// each machine for what may be left.
func (e *env) uninstall(ctx context.Context, l *lab.Lab) error {
	err := e.kubectl(ctx, l,
		[]string{"-n", "patchbay-system", "delete", "daemonset/patchbayd", "deployment/patchbay-controller", "--cascade=foreground", "--timeout=60s"},
		[]string{"apply", "-f", e.deploy("uninstall.yaml")},
		[]string{"-n", "patchbay-system", "rollout", "status", "daemonset/patchbay-cleanup", "--timeout=60s"},
		[]string{"delete", "-f", e.deploy("uninstall.yaml"), "--cascade=foreground", "--timeout=60s"},
		[]string{"delete", "-f", e.deploy("patchbay.yaml"), "-f", e.deploy("crds"), "--ignore-not-found", "--timeout=60s"})
	if err != nil {
		return err
	}
	for _, m := range l.Machines {
		left, lookErr := leftovers(ctx, l, m.Name)
		if len(left) > 0 {
			lookErr = errors.Join(lookErr, fmt.Errorf("%s: Patchbay left %s", m.Name, strings.Join(left, "; ")))
		}
		err = errors.Join(err, lookErr)
	}
	if err == nil {
		fmt.Fprintln(e.out, "uninstall: nothing left on any machine")
	}
	return err
}

// traces are commands that print what Patchbay has made on a node, each
// nothing where it has been taken off.
var traces = []string{
	"find /sys/fs/bpf -mindepth 1 ! -name '*.debug'",
	"ip -o link show type vxlan",
	"ip -o route show table all proto 80",
	"ip -6 -o route show table all proto 80",
	"nft list tables | grep patchbay",
	"bpftool cgroup show /sys/fs/cgroup/unified",
	"bpftool net show | grep -E '^(eth|pb-)'",
	"ls /etc/cni/net.d",
}

func leftovers(ctx context.Context, l *lab.Lab, machine string) ([]string, error) {
	var left []string
	for _, trace := range traces {
		cmd, err := l.Exec(ctx, machine, "sh", "-c", trace)
		if err != nil {
			return nil, err
		}
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if text := strings.TrimSpace(string(out)); text != "" {
			left = append(left, fmt.Sprintf("(%s) %s", trace, text))
		} else if err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	return left, nil
}
