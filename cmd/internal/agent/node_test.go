// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const nodeObjects = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, "fd00:244:0:0::/120"]}
status: {addresses: [{type: InternalIP, address: 192.168.1.1}, {type: InternalIP, address: "fd00:1::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:244:0:1::/120"]}
status: {addresses: [{type: InternalIP, address: 192.168.1.2}, {type: InternalIP, address: "fd00:1::2"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: ClusterIP, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ipFamilies: [IPv4], ports: [{port: 80, targetPort: 8080, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints: [{addresses: [192.168.1.1], nodeName: node-a, conditions: {ready: true}}]
`

const nodeConfig = `
nodeName: node-a
source: file:/etc/patchbay/objects
podCIDRs: [10.244.0.0/16, "fd00:244::/56"]
serviceCIDRs: [10.96.0.0/16, "fd00:96::/112"]
log: {level: debug}
`

// startAgent runs the agent of a node until the returned function is called.
func startAgent(t *testing.T, cfg config.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, cfg, "node") }()
	netlab.WaitFor(t, 15*time.Second, "agent ready", func() error {
		select {
		case err := <-done:
			t.Fatalf("agent ended: %v", err)
		default:
		}
		status, err := agentapi.Client{Path: cfg.Paths.AgentSocket(), Timeout: time.Second}.Status(t.Context())
		if err == nil && !status.Ready {
			err = fmt.Errorf("not ready: %s", status.Reason)
		}
		return err
	})
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended: %v", err)
		}
	}
}

// nodeNetwork makes eth0 on the node's network, with another node and somebody else on it.
func nodeNetwork(t *testing.T) (here, outside *netlab.Namespace) {
	here, peer, outside := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), netlab.New(t)
	lan := netlab.NewSwitch(t)
	for ns, host := range map[*netlab.Namespace]string{here: "1", peer: "2", outside: "50"} {
		lan.Join(t, ns, "eth0")
		ns.Addr(t, "eth0", "192.168.1."+host+"/24")
		ns.Addr(t, "eth0", "fd00:1::"+host+"/64")
	}
	here.Route(t, "default", netip.MustParseAddr("192.168.1.2"), "eth0")
	return here, outside
}

func writeObjects(t *testing.T, text string) config.Config {
	t.Setenv("NODE_NAME", "")
	if err := os.MkdirAll("/etc/patchbay/objects", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/etc/patchbay/objects/all.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse([]byte(nodeConfig))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestNode(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, _ := nodeNetwork(t)
		before := here.Exec(t, "sh", "-c", "ip -br link; ip route; ip -6 route; nft list ruleset; find /sys/fs/bpf -mindepth 1")
		cfg := writeObjects(t, nodeObjects)
		stop := startAgent(t, cfg)

		client := agentapi.Client{Path: cfg.Paths.AgentSocket()}
		nics, err := client.NICs(t.Context())
		if err != nil || len(nics) != 1 || nics[0].Role != "internal" || !strings.Contains(nics[0].Reason, "192.168.1.1") {
			t.Errorf("NICs = %+v, %v, want eth0 internal for its InternalIP", nics, err)
		}
		routes := here.Exec(t, "sh", "-c", "ip route; ip -6 route")
		for _, want := range []string{"10.244.1.0/24 via 192.168.1.2 dev eth0 proto 80", "fd00:244:0:1::/120 via fd00:1::2 dev eth0 proto 80",
			"10.96.0.0/16 via 169.254.1.1 dev eth0 proto 80 src 192.168.1.1"} {
			if !strings.Contains(routes, want) {
				t.Errorf("routes lack %q:\n%s", want, routes)
			}
		}
		conflist, err := os.ReadFile(cfg.Paths.Conflist())
		if err != nil || !strings.Contains(string(conflist), "10.244.0.0/24") {
			t.Errorf("conflist: %v\n%s", err, conflist)
		}
		for url, want := range map[string]string{"http://127.0.0.1:10256/healthz": "nodeEligible", "http://127.0.0.1:10249/metrics": "patchbay_ready 1"} {
			if body := fetch(t, url); !strings.Contains(body, want) {
				t.Errorf("%s lacks %q:\n%s", url, want, body)
			}
		}
		serve(t, "192.168.1.1:8080")
		dial := func() error {
			conn, err := net.DialTimeout("tcp", "10.96.0.10:80", time.Second)
			if err == nil {
				err = conn.Close()
			}
			return err
		}
		if err := dial(); err != nil {
			t.Errorf("ClusterIP: %v", err)
		}
		stop()
		if err := dial(); err != nil {
			t.Errorf("ClusterIP without agent: %v", err)
		}

		// The snapshot serves when the source has nothing yet: the folder is gone.
		if err := os.Rename("/etc/patchbay/objects/all.yaml", "/etc/patchbay/all.yaml"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(cfg.Paths.Snapshot()); err != nil {
			t.Errorf("snapshot: %v", err)
		}
		if err := cleanup(cfg, options{role: "node", dir: t.TempDir()}); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		after := here.Exec(t, "sh", "-c", "ip -br link; ip route; ip -6 route; nft list ruleset; find /sys/fs/bpf -mindepth 1")
		if after != before {
			t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
		}
	})
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Error(err)
	}
	return b.String()
}

// serve accepts connections until the test ends.
func serve(t *testing.T, address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		runs := 0
		err := keep(ctx, func() error {
			runs++
			switch runs {
			case 1:
				return errors.New("port taken")
			case 2:
				time.Sleep(2 * keepEvery)
				return nil
			}
			cancel()
			return ctx.Err()
		}, func(err error) { told = append(told, fmt.Sprint(err)) })
		if want := []string{"port taken", "<nil>", errEnded.Error()}; err != nil || !slices.Equal(told, want) {
			t.Errorf("keep = %v, told %q, want %q", err, told, want)
		}
	})
}

func TestInstallCNI(t *testing.T) {
	dir := t.TempDir()
	if err := copyBinary("/bin/true", filepath.Join(dir, "patchbay")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "patchbay"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("copy: %v, %v", info, err)
	}
	if err := installCNI(dir); err == nil || !strings.Contains(err.Error(), "install cni") {
		t.Errorf("install without the CNI binary = %v, want an error that says so", err)
	}
}

func TestCgroupMount(t *testing.T) {
	tests := []struct{ name, mountinfo, want string }{
		{"pure", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		{"hybrid", "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		{"elsewhere", "31 30 0:27 / /mnt/cg rw - cgroup2 none rw\n", "/mnt/cg"},
		{"none", "30 23 0:26 / / rw - ext4 /dev/vda rw\n", ""},
	}
	for _, tt := range tests {
		if got := cgroupMount(tt.mountinfo); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPoolsOf(t *testing.T) {
	for from, want := range map[string]string{"kube": "", "file:/etc/patchbay/objects": "/etc/patchbay/objects"} {
		if got := poolsOf(config.Config{Source: from}, nil).Folder; got != want {
			t.Errorf("source %s: pools are files in %q, want %q", from, got, want)
		}
	}
}
