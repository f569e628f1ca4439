// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
	"github.com/patchbay-net/patchbay/test/cluster/internal/oci"
	"github.com/patchbay-net/patchbay/test/cluster/manifests"
)

// kubeProxyImage is the name that manifests/kube-proxy.yaml.tmpl uses.
const kubeProxyImage = "patchbay.test/kube-proxy:dev"

// installKubeProxy puts what most clusters have on this one instead of
// Patchbay, to see what upstream's tests say of it on the same machine:
// kube-proxy in its nftables mode, the reference CNI plugins, and routes
// between the nodes.
func (e *env) installKubeProxy(ctx context.Context, l *lab.Lab) error {
	set, err := e.build(ctx)
	if err != nil {
		return err
	}
	programs, err := set.Binaries()
	if err != nil {
		return err
	}
	archive := filepath.Join(l.Dir, "kube-proxy.tar")
	if err := kubeProxyArchive(archive, programs["kube-proxy"]); err != nil {
		return err
	}
	if err := l.Import(ctx, archive); err != nil {
		return err
	}
	for _, m := range l.Machines {
		if err := e.plainCNI(ctx, l, m, programs); err != nil {
			return err
		}
	}
	t, err := template.ParseFS(manifests.Files, "kube-proxy.yaml.tmpl")
	if err != nil {
		return err
	}
	var proxy bytes.Buffer
	if err := t.Execute(&proxy, l.Site()); err != nil {
		return err
	}
	if err := l.Apply(ctx, &proxy); err != nil {
		return err
	}
	if err := e.installDNS(ctx, l); err != nil {
		return err
	}
	return e.kubectl(ctx, l,
		[]string{"-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=90s"},
		[]string{"wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"},
		[]string{"-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s"})
}

func kubeProxyArchive(path, program string) error {
	tree := oci.NewTree()
	if err := tree.File("usr/bin/kube-proxy", program); err != nil {
		return err
	}
	if err := tree.Program("usr/sbin/nft", "nft"); err != nil {
		return err
	}
	tree.Dir("tmp", 0o1777)
	layer, err := tree.FastLayer()
	if err != nil {
		return err
	}
	return writeArchive(path, oci.Image{Name: kubeProxyImage, Layers: []*oci.Layer{layer}, Config: oci.Config{
		Env: []string{"PATH=/usr/bin:/usr/sbin"}, Entrypoint: []string{"/usr/bin/kube-proxy"},
	}})
}

// plainCNI gives m the reference plugins with its pod ranges, and routes to
// the other machines' ranges.
func (e *env) plainCNI(ctx context.Context, l *lab.Lab, m lab.Machine, programs map[string]string) error {
	var commands []string
	for _, other := range l.Machines {
		ranges, err := podRanges(ctx, l, other)
		if err != nil {
			return err
		}
		if other.Name == m.Name {
			conf, err := plainConf(ranges)
			if err != nil {
				return err
			}
			commands = append(commands, fmt.Sprintf("echo '%s' >/etc/cni/net.d/10-plain.conflist", conf))
			continue
		}
		for _, r := range ranges {
			via := other.Internal.V4.Addr()
			if r.Addr().Is6() {
				via = other.Internal.V6.Addr()
			}
			commands = append(commands, fmt.Sprintf("ip route replace %s via %s", r, via))
		}
	}
	for _, plugin := range []string{"ptp", "host-local", "portmap"} {
		commands = append(commands, "cp "+programs[plugin]+" /opt/cni/bin/")
	}
	commands = append(commands, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	cmd, err := l.Exec(ctx, m.Name, "sh", "-ec", strings.Join(commands, "\n"))
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("plain CNI on %s: %w: %s", m.Name, err, out)
	}
	return nil
}

func podRanges(ctx context.Context, l *lab.Lab, m lab.Machine) ([]netip.Prefix, error) {
	out, err := l.Kubectl(ctx, "get", "node", m.Name, "-o", "jsonpath={.spec.podCIDRs[*]}").Output()
	if err != nil {
		return nil, fmt.Errorf("pod ranges of %s: %w", m.Name, err)
	}
	var ranges []netip.Prefix
	for _, field := range strings.Fields(string(out)) {
		p, err := netip.ParsePrefix(field)
		if err != nil {
			return nil, fmt.Errorf("pod ranges of %s: %w", m.Name, err)
		}
		ranges = append(ranges, p)
	}
	return ranges, nil
}

// plainConf is the CNI configuration of a node with these pod ranges.
func plainConf(ranges []netip.Prefix) ([]byte, error) {
	type object = map[string]any
	var sets [][]object
	var routes []object
	for _, r := range ranges {
		sets = append(sets, []object{{"subnet": r.String()}})
		everywhere := "0.0.0.0/0"
		if r.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	return json.Marshal(object{"cniVersion": "1.0.0", "name": "plain", "plugins": []object{
		{"type": "ptp", "ipam": object{"type": "host-local", "ranges": sets, "routes": routes}},
		{"type": "portmap", "backend": "nftables", "snat": true, "capabilities": object{"portMappings": true}},
	}})
}

const recordHeader = `# What kube-proxy v1.37.1 (nftables) and the reference CNI plugins make, in this
# lab, of the tests that expected.txt leaves out. "pbcluster -kube-proxy test"
# writes it.
`

// beyondKubeProxy are the tests that can't be compared: kube-proxy gives out no
// LoadBalancer addresses and enforces no NetworkPolicy, this kernel has no SCTP,
// 10,000 Services take too long, and two wait for minutes for the Internet's DNS.
const beyondKubeProxy = `\[Feature:(LoadBalancer|NetworkPolicy|SCTPConnectivity|PerformanceDNS)\]|nameserver Forward (PTR|external name) lookup`

// endToEndKubeProxy runs what test/e2e/expected.txt leaves out, or with all
// tests the others too, and writes what came of it to test/e2e/kube-proxy.txt.
func (e *env) endToEndKubeProxy(ctx context.Context, l *lab.Lab) error {
	expected, err := readExpected(filepath.Join(e.root, "test/e2e/expected.txt"))
	if err != nil {
		return err
	}
	names := slices.Collect(maps.Keys(expected.omitted))
	if e.all {
		names = slices.AppendSeq(names, maps.Keys(expected.pass))
	}
	specs, err := e.ginkgo(ctx, l, focus(names), beyondKubeProxy)
	if err != nil {
		return err
	}
	var lines []string
	count := map[string]int{}
	for _, s := range specs {
		if s.ran() || s.Failure.Message != "" { // else it wasn't chosen
			lines = append(lines, s.State+" "+s.name())
			count[s.State]++
		}
	}
	slices.Sort(lines)
	fmt.Fprintln(e.out, "e2e with kube-proxy:", count)
	text := recordHeader + strings.Join(lines, "\n") + "\n"
	return os.WriteFile(filepath.Join(e.root, "test/e2e/kube-proxy.txt"), []byte(text), 0o644)
}
