// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseDefaults(t *testing.T) {
	t.Setenv("NODE_NAME", "node-a")
	c, err := Parse([]byte("nodeName: other\n"))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := Config{
		NodeName: "node-a", Source: "file:/etc/patchbay/objects",
		Routing:    Routing{Mode: RoutingAuto, VXLAN: VXLAN{Port: 4789, VNI: 20546}},
		Masquerade: Masquerade{Enabled: &yes},
		Services:   Services{NodePortNICs: []Role{RoleInternal}},
		LoadBalancer: LoadBalancer{Class: "patchbay.net/lb", Default: &yes, ReplyPath: "ingress",
			AnnouncementExpiry: Duration(30 * time.Second)},
		Gossip: Gossip{Port: 7474}, Policy: Policy{UntilSynced: "deny"}, Log: Log{Level: "info"},
		Paths: Paths{State: "/var/lib/patchbay", Run: "/run/patchbay", BPF: "/sys/fs/bpf/patchbay",
			CNIConf: "/etc/cni/net.d", Status: "/var/lib/patchbay/status", Sysctl: "/proc/sys"},
	}
	if diff := cmp.Diff(want, c, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestLoadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := `
source: file:/objects
podCIDRs: [10.244.0.0/16, "fd00:10:244::/56"]
serviceCIDRs: [10.96.0.0/16]
nics:
- {name: eth0, role: internal}
- {subnet: 192.168.7.0/24, role: external}
masquerade: {enabled: false, exclude: [192.168.20.0/24]}
loadBalancer: {announcementExpiry: 1m}
paths: {state: /tmp/n1/state}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if dir, ok := c.SourceDir(); !ok || dir != "/objects" {
		t.Errorf("SourceDir = %q, %v", dir, ok)
	}
	if *c.Masquerade.Enabled || c.NICs[1].Subnet != netip.MustParsePrefix("192.168.7.0/24") {
		t.Errorf("masquerade or nics misread: %+v", c)
	}
	if c.Paths.Status != "/tmp/n1/state/status" || c.LoadBalancer.AnnouncementExpiry != Duration(time.Minute) {
		t.Errorf("status %q, expiry %v", c.Paths.Status, c.LoadBalancer.AnnouncementExpiry)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "nodename2: x", "unknown field"},
		{"source", "source: etcd", `source: "etcd"`},
		{"relative folder", "source: file:objects", "absolute"},
		{"plain http API server", "apiServers: [http://a]", "apiServers[0]"},
		{"two selectors", "nics: [{name: a, mac: \"02:00:00:00:00:01\", role: internal}]", "exactly one"},
		{"role", "nics: [{name: a, role: both}]", "role"},
		{"host bits", "podCIDRs: [10.244.0.1/16]", "did you mean 10.244.0.0/16"},
		{"overlap", "podCIDRs: [10.0.0.0/8]\nserviceCIDRs: [10.96.0.0/16]", "overlaps"},
		{"mode", "routing: {mode: bgp}", "routing.mode"},
		{"mtu", "cni: {mtu: 100}", "cni.mtu"},
		{"vni", "routing: {vxlan: {vni: 16777216}}", "24 bits"},
		{"level", "log: {level: loud}", "log.level"},
		{"direct return", "loadBalancer: {replyPath: direct}", "loadBalancer.replyPath: \"direct\" is none of"},
		{"expiry", "loadBalancer: {announcementExpiry: 1s}", "5s or more"},
		{"cut in half", "nics: [{name: a", "yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q) = %v, want mention of %q", tt.text, err, tt.want)
			}
		})
	}
}

func TestParseReportsAllFaults(t *testing.T) {
	_, err := Parse([]byte("source: x\nrouting: {mode: y}\n"))
	if err == nil || !strings.Contains(err.Error(), "source") || !strings.Contains(err.Error(), "routing.mode") {
		t.Errorf("Parse = %v, want both faults", err)
	}
}
