// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/google/nftables"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// software is other network software, by what it leaves behind.
type software struct {
	name      string
	processes []string // names of its programs
	chains    []string // beginnings of its chains' and tables' names
	links     []string // beginnings of its interfaces' names
	cni       []string // types of its CNI plugins
	pins      []string // its directories on the BPF file system
	uninstall []string
}

// others is the software that is known. Calico's removal deletes its
// interfaces; iptables rules of all of them go by restoring without them.
func others() []software {
	return []software{
		{name: "kube-proxy", processes: []string{"kube-proxy"}, chains: []string{"KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-NODEPORTS", "KUBE-EXT-", "kube-proxy"},
			links: []string{"kube-ipvs0"}, uninstall: []string{"kubectl -n kube-system delete daemonset kube-proxy", "kube-proxy --cleanup"}},
		{name: "Calico", processes: []string{"calico-node", "calico-felix"}, chains: []string{"cali-", "calico"},
			links: []string{"cali", "tunl0", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "bpfin.cali", "bpfout.cali"},
			cni:   []string{"calico", "calico-ipam"}, pins: []string{"tc/globals/cali_v", "calico"}, uninstall: []string{"kubectl delete -f calico.yaml"}},
		{name: "flannel", processes: []string{"flanneld"}, chains: []string{"FLANNEL-"}, links: []string{"flannel.", "flannel-v6.", "flannel-wg", "cni0"},
			cni: []string{"flannel"}, uninstall: []string{"kubectl delete -f kube-flannel.yml"}},
		{name: "Cilium", processes: []string{"cilium-agent", "cilium-envoy"}, chains: []string{"CILIUM_", "OLD_CILIUM_"},
			links: []string{"cilium_", "lxc"}, cni: []string{"cilium-cni"}, pins: []string{"cilium", "tc/globals/cilium_"},
			uninstall: []string{"cilium uninstall", "cilium-dbg cleanup --all-state"}},
		{name: "MetalLB", processes: []string{"speaker", "metallb-speaker"}, uninstall: []string{"kubectl delete namespace metallb-system"}},
		{name: "kindnet", processes: []string{"kindnetd"}, chains: []string{"KIND-MASQ", "kindnet"}, uninstall: []string{"kubectl -n kube-system delete daemonset kindnet"}},
		{name: "Weave Net", processes: []string{"weaver"}, chains: []string{"WEAVE"}, links: []string{"weave", "vethwe-"}, cni: []string{"weave-net"}, uninstall: []string{"weave reset --force"}},
		{name: "kube-router", processes: []string{"kube-router"}, chains: []string{"KUBE-ROUTER-"}, links: []string{"kube-bridge", "kube-dummy-if"}, uninstall: []string{"kube-router --cleanup-config"}},
		{name: "the portmap plugin", chains: []string{"CNI-HOSTPORT", "CNI-DN-", "cni_hostport"}, uninstall: []string{"remove portmap from the CNI configuration that used it"}},
		{name: "node-local DNS", links: []string{"nodelocaldns"}, uninstall: []string{"kubectl -n kube-system delete daemonset node-local-dns"}},
	}
}

func begins(name string, list []string) bool {
	return slices.ContainsFunc(list, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

// processes looks for other software that runs.
func (w *ward) processes() error {
	entries, err := os.ReadDir(w.Proc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(w.Proc, e.Name(), "comm"))
		if err != nil {
			continue // it ended
		}
		name := strings.TrimSpace(string(comm))
		for _, s := range others() {
			if slices.Contains(s.processes, name) {
				w.found(Error, s.uninstall, "%s runs (%s, process %d): two programs would serve the same packets", s.name, name, pid)
			}
		}
	}
	return nil
}

// rules looks for others' filter and translation rules.
func (w *ward) rules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, s := range others() {
		var where []string
		remedy := slices.Clone(s.uninstall)
		for _, t := range tables {
			if begins(t.Name, s.chains) {
				where = append(where, "table "+family(t.Family)+" "+t.Name)
				remedy = append(remedy, "nft delete table "+family(t.Family)+" "+t.Name)
			}
		}
		count, restore := 0, map[string]bool{}
		for _, c := range chains {
			if !begins(c.Name, s.chains) || begins(c.Table.Name, s.chains) {
				continue
			}
			count++
			restore[map[bool]string{true: "ip6tables", false: "iptables"}[c.Table.Family == nftables.TableFamilyIPv6]] = true
		}
		if count > 0 {
			where = append(where, strconv.Itoa(count)+" iptables chains")
		}
		for tool := range restore {
			remedy = append(remedy, fmt.Sprintf("%s-save | grep -vE '%s' | %s-restore", tool, strings.Join(s.chains, "|"), tool))
		}
		sort.Strings(remedy[len(s.uninstall):])
		if len(where) > 0 {
			w.found(Error, remedy, "%s has left rules: %s; they translate and drop packets before Patchbay's", s.name, strings.Join(where, ", "))
		}
	}
	return w.legacyRules()
}

// legacyRules looks for rules that only the old iptables shows.
func (w *ward) legacyRules() error {
	for _, f := range []string{"ip_tables_names", "ip6_tables_names"} {
		text, err := w.read(filepath.Join(w.Proc, "self/net", f))
		if err != nil {
			return err
		}
		if names := strings.Fields(text); len(names) > 0 {
			w.found(Note, []string{"iptables-legacy-save | grep -E 'KUBE|cali|FLANNEL|CILIUM'"},
				"the old iptables is in use (%s): what it has can't be seen from here", strings.Join(names, ", "))
		}
	}
	return nil
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return strconv.Itoa(int(f))
}

// ipvs looks for virtual servers in the kernel.
func (w *ward) ipvs() error {
	text, err := w.read(filepath.Join(w.Proc, "self/net/ip_vs"))
	if err != nil {
		return err
	}
	count := 0
	for line := range strings.Lines(text) {
		if begins(line, []string{"TCP ", "UDP ", "SCTP ", "FWM "}) {
			count++
		}
	}
	if count > 0 {
		w.found(Error, []string{"kube-proxy --cleanup", "ipvsadm --clear"}, "%d virtual servers of IPVS are there: they take Services' packets", count)
	}
	return nil
}

// interfaces looks for others' interfaces.
func (w *ward) interfaces() error {
	links, err := netdev.Links()
	if err != nil {
		return err
	}
	for _, s := range others() {
		var names, remedy []string
		for _, l := range links {
			if begins(l.Name, s.links) && !netdev.IsPodLink(l.Name) {
				names = append(names, l.Name)
				remedy = append(remedy, "ip link delete "+l.Name)
			}
		}
		if len(names) > 0 {
			w.found(Warning, append(slices.Clone(s.uninstall), remedy...), "interfaces of %s: %s", s.name, strings.Join(names, ", "))
		}
	}
	return nil
}

// ours is the CNI configuration that the agent writes.
const ours = "00-patchbay.conflist"

// cni looks for other CNI configurations: the runtime takes the first.
func (w *ward) cni() error {
	dir := w.path("/etc/cni/net.d")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == ours })
	if !have && w.noAgent == nil && w.info.Role == "node" {
		w.found(Error, nil, "%s isn't in %s: the runtime can't make pods", ours, dir)
	}
	for _, e := range entries {
		if e.Name() == ours || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		text, err := w.read(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		whose := "another network"
		for _, s := range others() {
			if slices.ContainsFunc(s.cni, func(t string) bool { return strings.Contains(strings.ReplaceAll(text, " ", ""), `"type":"`+t+`"`) }) {
				whose = s.name
			}
		}
		severity, text := Warning, "is taken if Patchbay's goes"
		if e.Name() < ours {
			severity, text = Error, "sorts before Patchbay's: the runtime takes it"
		}
		if strings.Contains(e.Name(), "multus") {
			severity, text = Note, "delegates; Patchbay works under it"
		}
		w.found(severity, []string{"rm " + filepath.Join("/etc/cni/net.d", e.Name())}, "the CNI configuration %s, of %s, %s", e.Name(), whose, text)
	}
	return nil
}

// pins looks for others' programs and maps.
func (w *ward) pins() error {
	for _, s := range others() {
		var found, remedy []string
		for _, p := range s.pins {
			paths, err := filepath.Glob(w.path("/sys/fs/bpf/" + p + "*"))
			if err != nil {
				return err
			}
			for _, path := range paths {
				found = append(found, path)
				remedy = append(remedy, "rm -r "+path)
			}
		}
		if len(found) > 0 {
			w.found(Warning, append(slices.Clone(s.uninstall), remedy...),
				"%s has left BPF maps or programs (%s); what is attached to devices and cgroups may still run", s.name, strings.Join(found, ", "))
		}
	}
	return nil
}
