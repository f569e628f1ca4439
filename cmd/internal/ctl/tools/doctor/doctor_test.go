// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
				{Name: "ext", Role: "external", MTU: 1500, Carrier: true, Addrs: prefixes("192.0.2.1/24"), Problem: "the InternalIP is here"},
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
		env := Env{Root: root, Agent: agent(t)}
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
		tests := []struct {
			name        string
			plant       func()
			topic, text string
			severity    Severity
			remedy      string
		}{
			{"kube-proxy's nftables", run("nft", "add", "table", "ip", "kube-proxy"), "rules", "kube-proxy has left rules: table ip kube-proxy", Error, "nft delete table ip kube-proxy"},
			{"kube-proxy's iptables", run("sh", "-c", "nft add table ip nat && nft add chain ip nat KUBE-SERVICES"), "rules", "1 iptables chains", Error, "iptables-save | grep -vE"},
			{"Calico's chains", run("nft", "add", "chain", "ip", "nat", "cali-nat-outgoing"), "rules", "Calico has left rules", Error, "iptables-restore"},
			{"Calico's interfaces", run("ip", "link", "add", "cali0123456789a", "type", "veth", "peer", "name", "x"), "interfaces", "Calico: cali0123456789a", Warning, "ip link delete cali0123456789a"},
			{"flannel's bridge", run("ip", "link", "add", "cni0", "type", "bridge"), "interfaces", "flannel: cni0", Warning, "ip link delete cni0"},
			{"a CNI configuration before ours", file("/etc/cni/net.d/00-a.conf", `{"type": "calico"}`), "cni", "00-a.conf, of Calico, sorts before", Error, "rm /etc/cni/net.d/00-a.conf"},
			{"a CNI configuration behind ours", file("/etc/cni/net.d/10-flannel.conflist", `{"plugins":[{"type": "flannel"}]}`), "cni", "10-flannel.conflist, of flannel, is taken if", Warning, "rm "},
			{"Cilium's pins", file("/sys/fs/bpf/tc/globals/cilium_calls", ""), "bpf", "Cilium has left BPF", Warning, "rm -r"},
			{"networkd", func() { plant(t, root, "/etc/systemd/networkd.conf.d/x.conf", "[Network]\nManageForeignRoutes=yes\n") }, "networkd", "ManageForeignRoutes", Error, "10-patchbay.conf"},
			{"strict rp_filter", run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/ext/rp_filter"), "sysctl", "rp_filter of ext is strict", Error, "net.ipv4.conf.ext.rp_filter=2"},
			{"no forwarding", run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"), "sysctl", "net.ipv4.ip_forward is 0", Error, "sysctl -w net.ipv4.ip_forward=1"},
			{"an address in the pod range", run("ip", "addr", "add", "10.244.0.77/32", "dev", "ext"), "ranges", "10.244.0.77 of ext is in the pod range", Error, "ip addr del"},
			{"a route in the pod range", run("ip", "route", "add", "10.244.0.128/25", "via", "10.0.0.2", "dev", "int"), "ranges", "the route 10.244.0.128/25 by int", Error, "ip route del 10.244.0.128/25"},
			{"a pod with a large MTU", run("sh", "-c", "ip link add pb0123456789a mtu 9000 type veth peer name y mtu 9000"), "mtu", "has MTU 9000, and", Warning, "routing.mtu"},
			{"a port of another MTU", run("sh", "-c", "ip link add sw type bridge && ip link add p mtu 1400 type veth peer name q && ip link set sw mtu 1500 && ip link set p master sw && ip link set sw mtu 1500"), "mtu", "p has MTU 1400, its switch sw 1500", Warning, "ip link set p mtu 1500"},
		}
		for _, test := range tests {
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
			})
		}
		for topic, text := range map[string]string{"agent": "Service default/web: no such pool", "nics": "ext: the InternalIP is here"} {
			if find(topic, text) == nil {
				t.Errorf("%s: %q not found", topic, text)
			}
		}
	})
}

func TestNoAgent(t *testing.T) {
	netlab.Require(t)
	r := Examine(t.Context(), Env{Root: t.TempDir(), Agent: agentapi.Client{Path: filepath.Join(t.TempDir(), "none")}})
	if !r.Bad() || r.Findings[0].Topic != "agent" && r.Findings[0].Severity != Error {
		t.Errorf("got %+v", r.Findings)
	}
}
