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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

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
				w.found(Error, s.uninstall, "%s runs (%s, process %d)", s.name, name, pid)
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
			w.found(Error, remedy, "%s has left rules: %s", s.name, strings.Join(where, ", "))
		}
	}
	return w.legacyRules()
}

// ipsets looks for others' sets of addresses.
func (w *ward) ipsets() error {
	sets, err := netlink.IpsetListAll()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return nil // the kernel has none
	}
	if err != nil {
		return fmt.Errorf("list ipsets: %w", err)
	}
	for _, s := range others() {
		var names []string
		remedy := slices.Clone(s.uninstall)
		for _, set := range sets {
			if begins(set.SetName, s.sets) {
				names = append(names, set.SetName)
				remedy = append(remedy, "ipset destroy "+set.SetName)
			}
		}
		if len(names) > 0 {
			w.found(Warning, remedy, "%s has left ipsets: %s", s.name, strings.Join(names, ", "))
		}
	}
	return nil
}

// ports looks for what others listen at.
func (w *ward) ports() error {
	for _, f := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := w.read(filepath.Join(w.Proc, "self/net", f))
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) < 4 || strings.HasPrefix(f, "tcp") && fields[3] != "0A" { // TCP_LISTEN
				continue
			}
			_, hexPort, _ := strings.Cut(fields[1], ":")
			port, err := strconv.ParseUint(hexPort, 16, 16)
			if err != nil {
				continue // the head
			}
			for _, s := range others() {
				if slices.Contains(s.ports, uint16(port)) {
					w.foundOnce(Warning, s.uninstall, "something listens at %d/%s, as %s does", port, strings.TrimSuffix(f, "6"), s.name)
				}
			}
		}
	}
	return nil
}

// leftFiles looks for what others have left on the disk.
func (w *ward) leftFiles() error {
	for _, s := range others() {
		var found, remedy []string
		for _, f := range s.files {
			if _, err := os.Lstat(w.path(f)); err == nil {
				found, remedy = append(found, f), append(remedy, "rm -r "+f)
			}
		}
		if len(found) > 0 {
			w.found(Note, remedy, "%s has left files: %s", s.name, strings.Join(found, ", "))
		}
	}
	return nil
}

// maker is who makes a program of that name, as the agent names it with its
// hook; empty: nobody that is known.
func maker(program string) string {
	_, name, _ := strings.Cut(program, " ")
	for _, s := range others() {
		if begins(name, s.programs) {
			return s.name
		}
	}
	return ""
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
		w.found(Error, []string{"kube-proxy --cleanup", "ipvsadm --clear"}, "%d virtual servers of IPVS are there", count)
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
		w.found(Error, []string{"patchbayctl status says what the agent waits for before it writes it"}, "%s isn't in %s: the runtime can't make pods", ours, dir)
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
				path = "/" + strings.TrimLeft(strings.TrimPrefix(path, w.Root), "/")
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
