// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/probe"
)

// oldest is the oldest kernel that the programs are loaded on in tests.
func oldest() [2]int { return [2]int{6, 1} }

// kernel looks at what the datapath is built on.
func (w *ward) kernel() error {
	release, err := w.read(filepath.Join(w.Proc, "sys/kernel/osrelease"))
	if err != nil {
		return err
	}
	var version [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &version[0], &version[1]); err == nil && olderThan(version, oldest()) {
		w.found(Error, []string{"install a newer kernel"}, "kernel %s is older than %d.%d", release, oldest()[0], oldest()[1])
	}
	for _, f := range probe.Features() {
		if f.Missing == nil {
			continue
		}
		severity := Note
		if f.Needed {
			severity = Error
		}
		w.found(severity, []string{"use a kernel of 6.1 or later with it"}, "the kernel has no %s, for %s: %v", f.Name, f.Why, f.Missing)
	}
	if jit, err := w.read(filepath.Join(w.Proc, "sys/net/core/bpf_jit_enable")); err == nil && jit == "0" {
		w.found(Warning, []string{"sysctl -w net.core.bpf_jit_enable=1"}, "programs are interpreted: packets take several times as long")
	}
	return w.config(release)
}

func olderThan(a, b [2]int) bool { return slices.Compare(a[:], b[:]) < 0 }

// options are the parts of the kernel that no probe tells.
func options() map[string]string {
	return map[string]string{
		"CONFIG_CGROUP_BPF": "Services at the socket", "CONFIG_NET_CLS_BPF": "the programs at pods", "CONFIG_NET_SCH_INGRESS": "the programs at pods",
		"CONFIG_NF_TABLES": "pods' way out", "CONFIG_NFT_MASQ": "pods' way out", "CONFIG_VXLAN": "the tunnel to nodes behind a router",
		"CONFIG_VETH": "pods", "CONFIG_BRIDGE": "virtual switches", "CONFIG_INET_DIAG_DESTROY": "ending UDP sockets whose backend went",
	}
}

// config looks for parts that were left out when the kernel was built.
func (w *ward) config(release string) error {
	text, err := w.kernelConfig(release)
	if err != nil || text == "" {
		return err
	}
	for option, why := range options() {
		if strings.Contains(text, "\n"+option+"=") {
			continue
		}
		severity := Error
		if option == "CONFIG_INET_DIAG_DESTROY" || option == "CONFIG_VXLAN" || option == "CONFIG_BRIDGE" {
			severity = Note
		}
		w.found(severity, []string{"use a kernel that was built with it"}, "the kernel is built without %s, for %s", option, why)
	}
	return nil
}

func (w *ward) kernelConfig(release string) (string, error) {
	f, err := os.Open(filepath.Join(w.Proc, "config.gz"))
	if errors.Is(err, os.ErrNotExist) {
		return w.read(w.path("/boot/config-" + release))
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return "", fmt.Errorf("read kernel's configuration: %w", err)
	}
	text, err := io.ReadAll(z)
	return "\n" + string(text), err
}

// cgroup looks for the file system that the socket programs hang on.
func (w *ward) cgroup() error {
	f, err := os.Open(filepath.Join(w.Proc, "self/mountinfo"))
	if err != nil {
		return err
	}
	defer f.Close()
	cgroup2, bpf := false, false
	for s := bufio.NewScanner(f); s.Scan(); {
		_, after, ok := strings.Cut(s.Text(), " - ")
		kind, _, _ := strings.Cut(after, " ")
		cgroup2 = cgroup2 || ok && kind == "cgroup2"
		bpf = bpf || ok && kind == "bpf"
	}
	if !cgroup2 {
		w.found(Error, []string{"boot with systemd.unified_cgroup_hierarchy=1", "or: mount -t cgroup2 none /sys/fs/cgroup/unified"},
			"no cgroup2 is mounted: sockets can't be balanced")
	}
	if !bpf {
		w.found(Note, []string{"mount -t bpf bpf /sys/fs/bpf"}, "no BPF file system is mounted; the agent mounts one where it runs")
	}
	return nil
}

// sysctls looks at the kernel's settings.
func (w *ward) sysctls() error {
	get := func(key string) string {
		value, err := w.read(filepath.Join(w.Proc, "sys", key))
		if err != nil {
			return ""
		}
		return value
	}
	dotted := func(key string) string { return strings.ReplaceAll(key, "/", ".") }
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if get(key) == "0" {
			w.found(Error, []string{"sysctl -w " + dotted(key) + "=1", "and look for who sets it: grep -r " + filepath.Base(key) + " /etc/sysctl.conf /etc/sysctl.d /run/sysctl.d"},
				"%s is 0: nothing is forwarded to or from pods", dotted(key))
		}
	}
	all := get("net/ipv4/conf/all/rp_filter")
	for _, n := range w.managed() {
		key := "net/ipv4/conf/" + strings.ReplaceAll(n.Name, ".", "/") + "/rp_filter"
		if own := get(key); max(own, all) == "1" {
			w.found(Error, []string{"sysctl -w net.ipv4.conf." + n.Name + ".rp_filter=2"},
				"rp_filter of %s is strict: answers that leave by another NIC than the route's are dropped", n.Name)
		}
	}
	for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if get(key) == "1" {
			w.found(Warning, []string{"sysctl -w " + dotted(key) + "=0"}, "%s is 1: frames inside of switches pass the node's filter rules", dotted(key))
		}
	}
	if get("net/ipv4/conf/all/route_localnet") == "1" {
		w.found(Warning, []string{"sysctl -w net.ipv4.conf.all.route_localnet=0"},
			"net.ipv4.conf.all.route_localnet is 1, as kube-proxy sets it: neighbours can reach what listens on 127.0.0.1")
	}
	count, errCount := strconv.Atoi(get("net/netfilter/nf_conntrack_count"))
	limit, errLimit := strconv.Atoi(get("net/netfilter/nf_conntrack_max"))
	if errCount == nil && errLimit == nil && limit > 0 && count*10 > limit*9 {
		w.found(Warning, []string{"sysctl -w net.netfilter.nf_conntrack_max=" + strconv.Itoa(2*limit)},
			"the kernel tracks %d connections of %d: pods' connections to the outside will fail", count, limit)
	}
	return nil
}

// clock looks whether the time is kept.
func (w *ward) clock() error {
	read := w.Clock
	if read == nil {
		read = func(t *unix.Timex) error { _, err := unix.Adjtimex(t); return err }
	}
	var t unix.Timex
	if err := read(&t); err != nil {
		return fmt.Errorf("ask the clock: %w", err)
	}
	const unsynchronised = 0x40 // STA_UNSYNC
	if t.Status&unsynchronised != 0 {
		w.found(Warning, []string{"timedatectl set-ntp true", "or run chronyd or ntpd"},
			"no time service keeps the clock")
	}
	return nil
}

// networkd looks whether systemd-networkd takes away routes that aren't its own.
func (w *ward) networkd() error {
	if _, err := os.Stat(w.path("/run/systemd/netif")); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	keeps := map[string]bool{}
	for _, dir := range []string{"/usr/lib/systemd", "/etc/systemd", "/run/systemd"} {
		files, err := filepath.Glob(w.path(filepath.Join(dir, "networkd.conf.d/*.conf")))
		if err != nil {
			return err
		}
		for _, file := range append([]string{w.path(filepath.Join(dir, "networkd.conf"))}, files...) {
			text, err := w.read(file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(text) {
				key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
				if ok && slices.Contains([]string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"}, strings.TrimSpace(key)) {
					keeps[strings.TrimSpace(key)] = slices.Contains([]string{"no", "false", "off", "0"}, strings.ToLower(strings.TrimSpace(value)))
				}
			}
		}
	}
	if !keeps["ManageForeignRoutes"] {
		w.found(Error, []string{
			`mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n' > /etc/systemd/networkd.conf.d/10-patchbay.conf`,
			"systemctl restart systemd-networkd",
		}, "systemd-networkd removes routes that it didn't make (ManageForeignRoutes=yes, its default)")
	}
	return nil
}
