// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// agent answers as a node's does, with a pod range and two NICs.
func agent(t *testing.T) agentapi.Client {
	t.Helper()
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := agentapi.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	handler := agentapi.Handler{
		agentapi.OpInfo: agentapi.Do(func(context.Context, agentapi.None) (agentapi.Info, error) {
			return agentapi.Info{Node: "a", Role: "node", Ready: true, PodCIDRs: prefixes("10.244.0.0/24"),
				Problems: []agentapi.Problem{{Object: "Service default/web", Text: "no such pool"}}}, nil
		}),
		agentapi.OpNICs: agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.NIC, error) {
			return []agentapi.NIC{
				{Name: "int", Role: "internal", MTU: 1500, Carrier: true, Addrs: prefixes("10.0.0.1/24")},
				{Name: "ext", Role: "external", MTU: 1500, Carrier: true, Addrs: prefixes("192.0.2.1/24"), Problem: "the InternalIP is here",
					Programs: []string{"ingress cali_tc_main", "ingress tc_uplink_in"}},
			}, nil
		}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agentapi.Serve(ctx, listener, handler, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { cancel(); <-done })
	return agentapi.Client{Path: path}
}

func plant(t *testing.T, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDoctor plants what others leave behind, one kind after another, and looks
// for the finding; before, there is none.
func TestDoctor(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		self, other, root := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), t.TempDir()
		netlab.Wire(t, self, "int", other, "int")
		netlab.Wire(t, self, "ext", other, "ext")
		self.Addr(t, "int", "10.0.0.1/24")
		self.Addr(t, "ext", "192.0.2.1/24")
		for key, value := range map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1",
			"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/int/rp_filter": "2", "net/ipv4/conf/ext/rp_filter": "0"} {
			self.Sysctl(t, key, value)
		}
		plant(t, root, "/etc/cni/net.d/00-patchbay.conflist", "{}")
		plant(t, root, "/etc/systemd/networkd.conf.d/x.conf", "[Network]\nManageForeignRoutes = no\n")
		if err := os.MkdirAll(filepath.Join(root, "/run/systemd/netif"), 0o755); err != nil {
			t.Fatal(err)
		}
		flags, synced := uint32(0), int32(0)
		proc := t.TempDir()
		env := Env{Root: root, Agent: agent(t),
			Clock:    func(c *unix.Timex) error { c.Status = synced; return nil },
			Features: func(string) (uint32, error) { return flags, nil }}
		find := func(topic, text string) *Finding {
			for _, f := range Examine(t.Context(), env).Findings {
				if f.Topic == topic && strings.Contains(f.Text, text) {
					return &f
				}
			}
			return nil
		}
		run := func(args ...string) func() { return func() { self.Exec(t, args[0], args[1:]...) } }
		file := func(path, text string) func() { return func() { plant(t, root, path, text) } }
		for _, test := range findings(run, file, func() { flags = largeReceive }, func() { synced = 0x40 }, func() {
			plant(t, proc, "self/net/ip_vs", "IP Virtual Server version 1.2.1\nTCP  0A60000A:0050 rr\n  -> 0AF40005:1F90 Masq 1 0 0\n")
			env.Proc = proc
		}, func() { env.Proc = "" }) {
			t.Run(test.name, func(t *testing.T) {
				if f := find(test.topic, test.text); f != nil {
					t.Fatalf("found before it is there: %+v", f)
				}
				test.plant()
				f := find(test.topic, test.text)
				if f == nil {
					t.Fatalf("not found among %+v", Examine(t.Context(), env).Findings)
				}
				if f.Severity != test.severity || !strings.Contains(strings.Join(f.Remedy, "\n"), test.remedy) {
					t.Errorf("got %+v, want %s and %q", *f, test.severity, test.remedy)
				}
				if test.after != nil {
					test.after()
					return
				}
				if mend(t, self, root, f.Remedy) {
					if again := find(test.topic, test.text); again != nil {
						t.Errorf("its remedy is taken, and it is still found: %+v", again)
					}
				}
			})
		}
		for _, f := range Examine(t.Context(), env).Findings {
			if f.Why == "" || len(f.Remedy) == 0 {
				t.Errorf("no reason or remedy: %+v", f)
			}
		}
		for topic, text := range map[string]string{"agent": "Service default/web: no such pool", "nics": "ext: the InternalIP is here"} {
			if find(topic, text) == nil {
				t.Errorf("%s: %q not found", topic, text)
			}
		}
	})
}

// mend runs a remedy as far as it can be had here, files below root. It returns
// whether all was run but what only a cluster has.
func mend(t *testing.T, self *netlab.Namespace, root string, remedy []string) bool {
	t.Helper()
	ran := false
	for _, line := range remedy {
		switch tool, rest, _ := strings.Cut(line, " "); tool {
		case "nft", "ip", "sysctl":
			self.Exec(t, "sh", "-c", line)
			ran = true
		case "rm":
			path := rest[strings.Index(rest, "/"):]
			if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
				t.Fatal(err)
			}
			ran = true
		case "ipset":
			if err := netlink.IpsetDestroy(strings.TrimPrefix(rest, "destroy ")); err != nil {
				t.Fatal(err)
			}
			ran = true
		case "mkdir": // networkd's
			self.Exec(t, "sh", "-c", strings.ReplaceAll(line, "/etc/", root+"/etc/"))
			ran = true
		case "kubectl", "kube-proxy", "cilium", "cilium-dbg", "weave", "systemctl":
		default:
			return false
		}
	}
	return ran
}

// planted is a case of TestDoctor.
type planted struct {
	name        string
	plant       func()
	topic, text string
	severity    Severity
	remedy      string
	after       func() // in place of the remedy
}

// findings are what is planted, one after another.
func findings(run func(...string) func(), file func(string, string) func(), merge, drift, servers, noServers func()) []planted {
	nothing := func() {}
	return []planted{
		{"kube-proxy's nftables", run("nft", "add", "table", "ip", "kube-proxy"), "rules", "kube-proxy has left rules: table ip kube-proxy", Error, "nft delete table ip kube-proxy", nil},
		{"kube-proxy's iptables", run("sh", "-c", "nft add table ip nat && nft add chain ip nat KUBE-SERVICES"), "rules", "1 iptables chains", Error, "iptables-save | grep -vE", nil},
		{"Calico's chains", run("nft", "add", "chain", "ip", "nat", "cali-nat-outgoing"), "rules", "Calico has left rules", Error, "iptables-restore", nil},
		{"kube-proxy's IPVS device", run("ip", "link", "add", "kube-ipvs0", "type", "bridge"), "interfaces", "kube-proxy: kube-ipvs0", Warning, "ip link delete kube-ipvs0", nil},
		{"kube-proxy's IPVS servers", servers, "ipvs", "1 virtual servers of IPVS", Error, "ipvsadm --clear", noServers},
		{"kube-proxy's sysctl", run("sysctl", "-w", "net.ipv4.conf.all.route_localnet=1"), "sysctl", "route_localnet is 1", Warning, "sysctl -w net.ipv4.conf.all.route_localnet=0", nil},
		{"Calico's ipsets", func() { _ = netlink.IpsetCreate("cali40all-ipam-pools", "hash:net", netlink.IpsetCreateOptions{}) }, "ipsets", "Calico has left ipsets: cali40all-ipam-pools", Warning, "ipset destroy cali40all-ipam-pools", nil},
		{"Calico's interfaces", run("ip", "link", "add", "cali0123456789a", "type", "veth", "peer", "name", "x"), "interfaces", "Calico: cali0123456789a", Warning, "ip link delete cali0123456789a", nil},
		{"Calico's tunnel", run("sh", "-c", "ip link add vxlan.calico type vxlan id 4096 dstport 4799 dev int"), "interfaces", "Calico: vxlan.calico", Warning, "ip link delete vxlan.calico", nil},
		{"Calico's route", run("ip", "route", "add", "blackhole", "10.244.0.64/26", "proto", "12"), "ranges", "the route 10.244.0.64/26 to blackhole", Error, "ip route del blackhole 10.244.0.64/26", nil},
		{"Calico's conflist", file("/etc/cni/net.d/10-calico.conflist", `{"plugins": [{"type": "calico"}]}`), "cni", "10-calico.conflist, of Calico, is taken if", Warning, "rm /etc/cni/net.d/10-calico.conflist", nil},
		{"Calico's files", file("/etc/cni/net.d/calico-kubeconfig", ""), "files", "Calico has left files: /etc/cni/net.d/calico-kubeconfig", Note, "rm -r", nil},
		{"flannel's bridge", run("ip", "link", "add", "cni0", "type", "bridge"), "interfaces", "flannel: cni0", Warning, "ip link delete cni0", nil},
		{"a CNI configuration before ours", file("/etc/cni/net.d/00-a.conf", `{"type": "calico"}`), "cni", "00-a.conf, of Calico, sorts before", Error, "rm /etc/cni/net.d/00-a.conf", nil},
		{"Cilium's pins", file("/sys/fs/bpf/tc/globals/cilium_calls", ""), "bpf", "Cilium has left BPF", Warning, "rm -r", nil},
		{"networkd", file("/etc/systemd/networkd.conf.d/x.conf", "[Network]\nManageForeignRoutes=yes\n"), "networkd", "ManageForeignRoutes", Error, "10-patchbay.conf", nothing},
		{"strict rp_filter", run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/ext/rp_filter"), "sysctl", "rp_filter of ext is strict", Error, "net.ipv4.conf.ext.rp_filter=2", nil},
		{"no forwarding", run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"), "sysctl", "net.ipv4.ip_forward is 0", Error, "sysctl -w net.ipv4.ip_forward=1", nothing},
		{"a clock that nobody keeps", drift, "clock", "no time service", Warning, "timedatectl set-ntp true", nothing},
		{"merged packets", merge, "offloads", "ext merges packets that it receives", Error, "ethtool -K ext lro off", nothing},
		{"an address in the pod range", run("ip", "addr", "add", "10.244.0.77/32", "dev", "ext"), "ranges", "10.244.0.77 of ext is in the pod range", Error, "ip addr del", nil},
		{"a route in the pod range", run("ip", "route", "add", "10.244.0.128/25", "via", "10.0.0.2", "dev", "int"), "ranges", "the route 10.244.0.128/25 by int", Error, "ip route del 10.244.0.128/25", nil},
		{"a pod with a large MTU", run("sh", "-c", "ip link add pb0123456789a mtu 9000 type veth peer name y mtu 9000"), "mtu", "has MTU 9000, and", Warning, "routing.mtu", nothing},
		{"a port of another MTU", run("sh", "-c", "ip link add sw type bridge && ip link add p mtu 1400 type veth peer name q && ip link set sw mtu 1500 && ip link set p master sw && ip link set sw mtu 1500"), "mtu", "p has MTU 1400, its switch sw 1500", Warning, "ip link set p mtu 1500", nil},
	}
}

// What listens where others' programs do is told, and one that runs.
func TestOthersRun(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		root := t.TempDir()
		examine := func() string {
			var b strings.Builder
			for _, f := range Examine(t.Context(), Env{Root: root, Agent: agent(t)}).Findings {
				b.WriteString(f.Topic + ": " + f.Text + "\n")
			}
			return b.String()
		}
		want := []string{"ports: something listens at 7946/tcp, as MetalLB does", "ports: something listens at 179/tcp, as Calico does", "processes: kube-proxy runs (kube-proxy, process "}
		before := examine()
		for _, port := range []string{"127.0.0.1:7946", "127.0.0.1:179"} {
			l, err := net.Listen("tcp", port)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		sleep, err := exec.LookPath("sleep")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(sleep)
		name := filepath.Join(root, "kube-proxy")
		if err := errors.Join(err, os.WriteFile(name, text, 0o755)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(name, "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		after := examine()
		for _, w := range want {
			if strings.Contains(before, w) || !strings.Contains(after, w) {
				t.Errorf("%q: before\n%s\nafter\n%s", w, before, after)
			}
		}
		for _, program := range []string{"ext has a program of Calico: ingress cali_tc_main"} {
			if !strings.Contains(after, program) {
				t.Errorf("%q isn't in\n%s", program, after)
			}
		}
	})
}

// The nodes of a cluster are compared by what their agents report.
func TestCluster(t *testing.T) {
	nic := func(name string, mtu int, carrier bool) agentapi.NIC {
		return agentapi.NIC{Name: name, Role: "internal", MTU: mtu, Carrier: carrier, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
	}
	handler := agentapi.Handler{
		agentapi.OpInfo: agentapi.Do(func(context.Context, agentapi.None) (agentapi.Info, error) {
			return agentapi.Info{Reason: "b: its agent has reported nothing"}, nil
		}),
		agentapi.OpNICs: agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.NIC, error) {
			return []agentapi.NIC{nic("a/eth0", 9000, true), nic("b/eth0", 1500, true), nic("c/eth0", 1500, false)}, nil
		}),
	}
	report := ExamineCluster(t.Context(), agentapi.Client{Handler: handler})
	var got []string
	for _, f := range report.Findings {
		got = append(got, f.Text)
	}
	want := []string{
		"not all nodes are ready: b: its agent has reported nothing",
		"on the network 10.0.0.0/24, a/eth0 has MTU 9000 and b/eth0 1500",
		"on the network 10.0.0.0/24, a/eth0 has MTU 9000 and c/eth0 1500",
		"c/eth0 (internal) has no carrier",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNoAgent(t *testing.T) {
	netlab.Require(t)
	r := Examine(t.Context(), Env{Root: t.TempDir(), Agent: agentapi.Client{Path: filepath.Join(t.TempDir(), "none")}})
	if !r.Bad() || r.Findings[0].Topic != "agent" && r.Findings[0].Severity != Error {
		t.Errorf("got %+v", r.Findings)
	}
}
