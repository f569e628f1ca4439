// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const clusterConfig = `
source: file:/etc/patchbay/objects
podCIDRs: [10.244.0.0/16, "fd00:244::/56"]
serviceCIDRs: [10.96.0.0/16, "fd00:96::/112"]
gossip: {keyFile: /etc/patchbay/gossip.key}
`

// clusterObjects takes both nodes' InternalIPs.
const clusterObjects = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.0.0/24, "fd00:244:0:0::/120"]}
status: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: "%s"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:244:0:1::/120"]}
status: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: "%s"}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20]
  ipFamilies: [IPv4]
  ports: [{name: tcp, port: 80, targetPort: 8080, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: 192.168.1.100}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, namespace: default, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
ports: [{name: tcp, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.1.5], nodeName: node-b, conditions: {ready: true}}]
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: lan}
spec: {use: LoadBalancer, ranges: [{first: 192.168.1.100, last: 192.168.1.110}]}
`

// clusterNode is a node with its agent.
type clusterNode struct {
	*netlab.Node
	cfg config.Config
	log *bytes.Buffer
}

// startClusterNode starts the agent on a node that has its network.
func startClusterNode(t *testing.T, node *netlab.Node, settings, objects string) clusterNode {
	t.Helper()
	n := clusterNode{Node: node, log: &bytes.Buffer{}}
	text := "nodeName: " + node.Name + clusterConfig + settings
	write(t, node.Path("/etc/patchbay/config.yaml"), text)
	write(t, node.Path("/etc/patchbay/gossip.key"), "the key of all nodes of the test")
	if err := os.Mkdir(node.Path("/etc/patchbay/objects"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, node.Path("/etc/patchbay/objects/all.yaml"), objects)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	node.Start(t, netlab.Spec{Args: []string{exe}, Env: []string{agentEnv + "=/etc/patchbay/config.yaml", "NODE_NAME=" + node.Name}, Log: n.log})
	n.cfg.Paths = config.Paths{State: node.Path("/var/lib/patchbay"), Run: node.Path("/run/patchbay")}
	netlab.WaitFor(t, 20*time.Second, node.Name+"'s agent ready", func() error {
		status, err := agentapi.Client{Path: n.cfg.Paths.AgentSocket(), Timeout: time.Second}.Status(t.Context())
		if err == nil && !status.Ready {
			err = fmt.Errorf("not ready: %s", status.Reason)
		}
		return err
	})
	return n
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pod adds a pod with an IPv4 and an IPv6 address.
func (n clusterNode) pod(t *testing.T, id string, addrs ...netip.Addr) (p pod) {
	t.Helper()
	n.Net.Run(t, func() { p = addPod(t, n.cfg, id, addrs...) })
	return p
}

// lanOf joins what is given to a network of its own with addresses by position.
func lanOf(t *testing.T, third string, members map[*netlab.Namespace]string, name string) {
	lan := netlab.NewSwitch(t)
	for ns, host := range members {
		lan.Join(t, ns, name)
		ns.Addr(t, name, "192.168."+third+"."+host+"/24")
		ns.Addr(t, name, "fd00:"+third+"::"+host+"/64")
	}
}

func TestTwoNodes(t *testing.T) {
	netlab.Require(t)
	oneNetwork := func(t *testing.T, a, b *netlab.Node, outside *netlab.Namespace) string {
		lanOf(t, "1", map[*netlab.Namespace]string{a.Net: "1", b.Net: "2", outside: "50"}, "eth0")
		return fmt.Sprintf(clusterObjects, "192.168.1.1", "fd00:1::1", "192.168.1.2", "fd00:1::2")
	}
	behindRouter := func(t *testing.T, a, b *netlab.Node, outside *netlab.Namespace) string {
		router := netlab.New(t)
		lanOf(t, "1", map[*netlab.Namespace]string{a.Net: "1", outside: "50", router: "254"}, "eth0")
		router2 := map[*netlab.Namespace]string{b.Net: "2"}
		lan := netlab.NewSwitch(t)
		lan.Join(t, router, "eth1")
		router.Addr(t, "eth1", "192.168.2.254/24")
		router.Addr(t, "eth1", "fd00:2::254/64")
		for ns, host := range router2 {
			lan.Join(t, ns, "eth0")
			ns.Addr(t, "eth0", "192.168.2."+host+"/24")
			ns.Addr(t, "eth0", "fd00:2::"+host+"/64")
		}
		router.Sysctl(t, "net/ipv4/ip_forward", "1")
		router.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
		a.Net.Route(t, "default", netip.MustParseAddr("192.168.1.254"), "eth0")
		b.Net.Route(t, "default", netip.MustParseAddr("192.168.2.254"), "eth0")
		return fmt.Sprintf(clusterObjects, "192.168.1.1", "fd00:1::1", "192.168.2.2", "fd00:2::2")
	}
	tests := []struct {
		name, settings string
		topology       func(*testing.T, *netlab.Node, *netlab.Node, *netlab.Namespace) string
		route          string // to b's pods, on a
	}{
		{"native", "", oneNetwork, "10.244.1.0/24 via 192.168.1.2 dev eth0"},
		{"vxlan", "routing: {mode: vxlan}", oneNetwork, "10.244.1.0/24 dev pb-vxlan"},
		{"behind a router", "", behindRouter, "10.244.1.0/24 dev pb-vxlan"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nodeA, nodeB, outside := netlab.StartNode(t, "node-a"), netlab.StartNode(t, "node-b"), netlab.New(t)
			objects := tt.topology(t, nodeA, nodeB, outside)
			a, b := startClusterNode(t, nodeA, tt.settings, objects), startClusterNode(t, nodeB, tt.settings, objects)
			if routes := a.Exec(t, "ip", "route"); !strings.Contains(routes, tt.route) {
				t.Errorf("routes lack %q:\n%s", tt.route, routes)
			}
			near := a.pod(t, "near", netip.MustParseAddr("10.244.0.6"), netip.MustParseAddr("fd00:244::6"))
			far := b.pod(t, "far", netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd00:244:0:1::5"))
			far.echo(t, 8080)
			pod{Namespace: b.Net}.echo(t, 9999)
			nodeIP, _, _ := strings.Cut(strings.SplitAfter(objects, "node-b")[1], "}, {")
			nodeIP = nodeIP[strings.LastIndex(nodeIP, " ")+1:]
			checkCluster(t, a, near, outside, nodeIP)
			checkTrace(t, a)
			if t.Failed() {
				t.Logf("node-a:\n%s\nnode-b:\n%s", a.log, b.log)
				t.Logf("drops on a: %s\non b: %s", drops(t, a), drops(t, b))
			}
		})
	}
}

// checkTrace follows packets to pods of the other node by that node's own agent.
func checkTrace(t *testing.T, a clusterNode) {
	t.Helper()
	client := agentapi.Client{Path: a.cfg.Paths.AgentSocket(), Timeout: time.Minute}
	for _, c := range []struct{ from, to, want string }{
		{"10.244.0.6", "10.96.0.20:80", "pod: delivered to pod default/far 10.244.1.5"},
		{"[fd00:244::6]:5000", "[fd00:244:0:1::5]:8080", "pod: delivered to pod default/far fd00:244:0:1::5"},
		{"10.244.0.6", "10.244.1.77:9", "refused: dropped (this node has no such pod)"},
		{"outside", "192.168.1.100:80", "pod: delivered to pod default/far 10.244.1.5"},
	} {
		t.Run("trace "+c.to, func(t *testing.T) {
			netlab.WaitFor(t, 20*time.Second, "what node-b says", func() error {
				trace, err := client.Trace(t.Context(), agentapi.TraceRequest{From: c.from, To: c.to})
				if err != nil {
					return err
				}
				end := trace.There.End
				if end.There == nil {
					return fmt.Errorf("node %q at %s: %s\n%s", end.Node, end.Hop, end.Unsaid, traceText(trace))
				}
				if got := end.There.There.End; end.Node != "node-b" || !strings.HasPrefix(got.Kind+": "+got.Text, c.want) {
					t.Errorf("%s says %s: %s; want node-b and %q:\n%s", end.Node, got.Kind, got.Text, c.want, traceText(*end.There))
				}
				return nil
			})
		})
	}
}

func checkCluster(t *testing.T, a clusterNode, near pod, outside *netlab.Namespace, nodeB string) {
	for _, c := range []struct {
		name    string
		from    *netlab.Namespace
		address string
		seen    string
	}{
		{"pod to far pod", near.Namespace, "10.244.1.5:8080", "10.244.0.6"},
		{"pod to far pod v6", near.Namespace, "[fd00:244:0:1::5]:8080", "fd00:244::6"},
		{"pod to ClusterIP", near.Namespace, "10.96.0.20:80", "10.244.0.6"},
		{"pod to LoadBalancer", near.Namespace, "192.168.1.100:80", "10.244.0.6"},
		{"node to far pod", a.Net, "10.244.1.5:8080", ""},
		{"node to far pod v6", a.Net, "[fd00:244:0:1::5]:8080", ""},
		{"node to ClusterIP", a.Net, "10.96.0.20:80", ""},
		{"pod to far node", near.Namespace, nodeB + ":9999", "10.244.0.6"},
		{"outside to LoadBalancer", outside, "192.168.1.100:80", "192.168.1.50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen string
			netlab.WaitFor(t, 6*time.Second, c.address, func() (err error) {
				seen, err = ask(c.from, c.address)
				return err
			})
			if c.seen != "" && seen != c.seen {
				t.Errorf("%s: seen from %s, want %s", c.address, seen, c.seen)
			}
		})
	}
}

func drops(t *testing.T, n clusterNode) string {
	list, err := agentapi.Client{Path: n.cfg.Paths.AgentSocket()}.Drops(t.Context())
	return fmt.Sprintf("%+v %v", list, err)
}
