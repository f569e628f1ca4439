// SPDX-License-Identifier: Apache-2.0

package doctor

// software is other network software, by what it leaves behind.
type software struct {
	name      string
	processes []string // names of its programs
	chains    []string // beginnings of its chains' and tables' names
	links     []string // beginnings of its interfaces' names
	cni       []string // types of its CNI plugins
	pins      []string // its directories on the BPF file system
	sets      []string // beginnings of its ipsets' names
	files     []string // it leaves
	programs  []string // beginnings of its BPF programs' names
	ports     []uint16 // it listens at
	uninstall []string
}

// others is the software that is known. Its own way of removal comes first; what
// that leaves behind goes by the commands with the finding.
func others() []software {
	return []software{
		{name: "kube-proxy", processes: []string{"kube-proxy"}, chains: []string{"KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-NODEPORTS", "KUBE-EXT-",
			"KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-FW-", "KUBE-XLB-", "KUBE-PROXY-", "KUBE-LOAD-BALANCER", "KUBE-NODE-PORT", "kube-proxy"},
			links: []string{"kube-ipvs0"}, sets: []string{"KUBE-"}, files: []string{"/var/lib/kube-proxy"}, uninstall: []string{"kubectl -n kube-system delete daemonset kube-proxy", "kube-proxy --cleanup"}},
		{name: "Calico", processes: []string{"calico-node", "calico-felix"}, chains: []string{"cali-", "calico"},
			links: []string{"cali", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "bpfin.cali", "bpfout.cali"},
			cni:   []string{"calico", "calico-ipam"}, pins: []string{"tc/globals/cali_v", "calico"}, sets: []string{"cali40", "cali60"}, programs: []string{"cali_", "calico_"},
			files: []string{"/var/lib/calico", "/run/calico", "/etc/calico", "/etc/cni/net.d/calico-kubeconfig", "/etc/cni/net.d/calico-tls", "/opt/cni/bin/calico", "/opt/cni/bin/calico-ipam"},
			ports: []uint16{179, 5473, 9099}, uninstall: []string{"kubectl delete -f calico.yaml"}},
		{name: "flannel", processes: []string{"flanneld"}, chains: []string{"FLANNEL-"}, links: []string{"flannel.", "flannel-v6.", "flannel-wg", "cni0"},
			cni: []string{"flannel"}, files: []string{"/run/flannel", "/etc/kube-flannel", "/opt/cni/bin/flannel"}, uninstall: []string{"kubectl delete -f kube-flannel.yml"}},
		{name: "Cilium", processes: []string{"cilium-agent", "cilium-envoy"}, chains: []string{"CILIUM_", "OLD_CILIUM_"},
			links: []string{"cilium_", "lxc"}, cni: []string{"cilium-cni"}, pins: []string{"cilium", "tc/globals/cilium_"}, programs: []string{"cil_"}, files: []string{"/var/run/cilium", "/etc/cni/net.d/05-cilium.conflist.cilium_bak"},
			uninstall: []string{"cilium uninstall", "cilium-dbg cleanup --all-state"}},
		{name: "MetalLB", processes: []string{"speaker", "metallb-speaker"}, ports: []uint16{7946}, uninstall: []string{"kubectl delete namespace metallb-system"}},
		{name: "kindnet", processes: []string{"kindnetd"}, chains: []string{"KIND-MASQ", "kindnet"}, uninstall: []string{"kubectl -n kube-system delete daemonset kindnet"}},
		{name: "Weave Net", processes: []string{"weaver"}, chains: []string{"WEAVE"}, links: []string{"weave", "vethwe-"}, cni: []string{"weave-net"}, uninstall: []string{"weave reset --force"}},
		{name: "kube-router", processes: []string{"kube-router"}, chains: []string{"KUBE-ROUTER-"}, links: []string{"kube-bridge", "kube-dummy-if"}, sets: []string{"kube-router-"}, uninstall: []string{"kube-router --cleanup-config"}},
		{name: "the portmap plugin", chains: []string{"CNI-HOSTPORT", "CNI-DN-", "cni_hostport"}, uninstall: []string{"remove portmap from the CNI configuration that used it"}},
		{name: "node-local DNS", links: []string{"nodelocaldns"}, uninstall: []string{"kubectl -n kube-system delete daemonset node-local-dns"}},
	}
}
