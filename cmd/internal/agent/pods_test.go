// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/pkg/netns"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const podObjects = nodeObjects + `
---
apiVersion: v1
kind: Service
metadata: {name: pods, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20]
  ipFamilies: [IPv4]
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: 192.168.1.100}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pods-1, namespace: default, labels: {kubernetes.io/service-name: pods}}
addressType: IPv4
ports: [{name: tcp, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.5], nodeName: node-a, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {name: pods6, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: "fd00:96::20"
  clusterIPs: ["fd00:96::20"]
  ipFamilies: [IPv6]
  ports: [{name: tcp, port: 80, targetPort: 8080, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: "fd00:1::100"}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pods6-1, namespace: default, labels: {kubernetes.io/service-name: pods6}}
addressType: IPv6
ports: [{name: tcp, port: 8080, protocol: TCP}]
endpoints:
- {addresses: ["fd00:244::5"], nodeName: node-a, conditions: {ready: true}}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: lan}
spec: {use: LoadBalancer, ranges: [{first: 192.168.1.100, last: 192.168.1.110}, {first: "fd00:1::100", last: "fd00:1::1ff"}]}
`

// pod is a namespace made into a pod as the CNI plugin does it.
type pod struct {
	*netlab.Namespace
	key agentapi.EndpointKey
}

func addPod(t *testing.T, cfg config.Config, id string, addrs ...netip.Addr) pod {
	t.Helper()
	return addPodWith(t, cfg, id, nil, addrs...)
}

func addPodWith(t *testing.T, cfg config.Config, id string, ports []store.PortMapping, addrs ...netip.Addr) pod {
	t.Helper()
	p := pod{netlab.New(t), agentapi.EndpointKey{ContainerID: id, IfName: "eth0"}}
	key := store.Key(p.key)
	mac := podlink.PodMAC(key.Link())
	var pools []ipam.Pool
	for _, addr := range addrs {
		prefix, _ := addr.Prefix(addr.BitLen() - 8)
		pool, err := ipam.NewPool("pods", ipam.Subnet{Prefix: prefix, First: addr, Last: addr})
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, pool)
	}
	lease, err := store.New(cfg.Paths.Leases(), store.Options{}).Allocate(store.Request{
		Lease: store.Lease{Key: key, Network: "patchbay", Netns: p.Path(), MAC: net.HardwareAddr(mac[:]).String(), PodName: id, PodNamespace: "default", Ports: ports},
		Pools: pools,
	})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open(p.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	index, err := podlink.Link{HostName: key.Link(), Netns: ns, IfName: "eth0", MTU: 1500, MAC: mac, Addrs: lease.Addrs}.Create()
	if err != nil {
		t.Fatal(err)
	}
	hostMAC := podlink.HostMAC(key.Link())
	var mappings []agentapi.PortMapping
	for _, p := range ports {
		mappings = append(mappings, agentapi.PortMapping(p))
	}
	err = agentapi.Client{Path: cfg.Paths.AgentSocket()}.AddEndpoint(t.Context(), agentapi.Endpoint{
		EndpointKey: p.key, Netns: p.Path(), HostIfName: key.Link(), HostIfIndex: index, HostMAC: net.HardwareAddr(hostMAC[:]).String(),
		MAC: lease.MAC, Addrs: lease.Addrs, Generation: lease.Generation, PodName: id, PodNamespace: "default", Ports: mappings,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// echo answers each connection with the client's address as the server sees it.
func (p pod) echo(t *testing.T, port int) {
	var listener net.Listener
	p.Run(t, func() {
		var err error
		if listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
}

// ask connects and returns the client's address that the server saw.
func ask(from *netlab.Namespace, address string) (seen string, err error) {
	err = from.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		raw, err := io.ReadAll(conn)
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(string(raw))
		seen = from.Addr().Unmap().String()
		return err
	})
	return seen, err
}

func TestPodsBySockets(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) { testPods(t, "") })
}

// TestPodsByPackets leaves the socket hooks to an empty cgroup: all is done packet by packet.
func TestPodsByPackets(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		mount, err := netlab.CgroupMount()
		if err != nil {
			t.Fatal(err)
		}
		empty := filepath.Join(mount, "empty")
		if err := os.Mkdir(empty, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(empty)
		testPods(t, empty)
	})
}

func testPods(t *testing.T, cgroup string) {
	here, outside := nodeNetwork(t)
	cfg := writeObjects(t, podObjects)
	cfg.CgroupPath = cgroup
	stop := startAgent(t, cfg)
	ports := []store.PortMapping{{HostPort: 18080, ContainerPort: 8080, Protocol: "tcp"}}
	server := addPodWith(t, cfg, "server", ports, netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:244::5"))
	client := addPod(t, cfg, "client", netip.MustParseAddr("10.244.0.6"), netip.MustParseAddr("fd00:244::6"))
	server.echo(t, 8080)
	pod{Namespace: outside}.echo(t, 7777)
	pod{Namespace: here}.echo(t, 9999)

	checks := func(t *testing.T) {
		for _, c := range []struct {
			name    string
			from    *netlab.Namespace
			address string
			seen    string
		}{
			{"pod to pod", client.Namespace, "10.244.0.5:8080", "10.244.0.6"},
			{"pod to ClusterIP", client.Namespace, "10.96.0.20:80", "10.244.0.6"},
			{"node to pod", here, "10.244.0.5:8080", ""},
			{"node to ClusterIP", here, "10.96.0.20:80", ""},
			{"pod to node", client.Namespace, "192.168.1.1:9999", "10.244.0.6"},
			{"pod to LoadBalancer", client.Namespace, "192.168.1.100:80", "10.244.0.6"},
			{"outside to LoadBalancer", outside, "192.168.1.100:80", "192.168.1.50"},
			{"pod to ClusterIP v6", client.Namespace, "[fd00:96::20]:80", "fd00:244::6"},
			{"node to ClusterIP v6", here, "[fd00:96::20]:80", ""},
			{"outside to LoadBalancer v6", outside, "[fd00:1::100]:80", "fd00:1::50"},
			{"pod to outside v6", client.Namespace, "[fd00:1::50]:7777", "fd00:1::1"},
			{"outside to host port", outside, "192.168.1.1:18080", "192.168.1.50"},
			{"node to host port", here, "192.168.1.1:18080", ""},
			{"node to host port on loopback", here, "127.0.0.1:18080", ""},
			{"pod to host port", client.Namespace, "192.168.1.1:18080", "10.244.0.6"},
			{"pod to outside", client.Namespace, "192.168.1.50:7777", "192.168.1.1"},
			{"outside to NodePort", outside, "192.168.1.1:30080", "192.168.1.50"},
		} {
			if cgroup == "" && c.from == outside {
				continue // it would be translated by the node's hooks, as it is a process of the node's cgroup
			}
			if cgroup != "" && strings.HasPrefix(c.name, "node to host port") {
				continue // to itself a node sends over lo, where only the socket hooks are
			}
			t.Run(c.name, func(t *testing.T) {
				seen, err := ask(c.from, c.address)
				if err != nil || c.seen != "" && seen != c.seen {
					t.Errorf("%s: seen from %q, %v, want %q", c.address, seen, err, c.seen)
				}
			})
		}
	}
	checks(t)
	if seen, err := ask(client.Namespace, "127.0.0.1:18080"); err == nil {
		t.Errorf("a pod's own loopback leads to another pod, seen from %s", seen)
	}
	stop()
	t.Run("without agent", checks)
	stop = startAgent(t, cfg)
	t.Run("again", checks)
	pods, err := agentapi.Client{Path: cfg.Paths.AgentSocket()}.Pods(t.Context())
	if err != nil || len(pods) != 2 {
		t.Errorf("pods after restart: %+v, %v, want both", pods, err)
	}
	if cgroup != "" {
		closedToOutside(t, outside, agentapi.Client{Path: cfg.Paths.AgentSocket()})
	}
	stop()
}

// closedToOutside: with routes to them, ClusterIPs and pods don't answer to the
// outside, and each attempt is counted.
func closedToOutside(t *testing.T, outside *netlab.Namespace, client agentapi.Client) {
	dropped := func() (n uint64) {
		drops, err := client.Drops(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drops {
			n += d.Packets
		}
		return n
	}
	for prefix, address := range map[string]string{"10.96.0.0/16": "10.96.0.20:80", "10.244.0.0/16": "10.244.0.5:8080"} {
		outside.Route(t, prefix, netip.MustParseAddr("192.168.1.1"), "eth0")
		before := dropped()
		if seen, err := ask(outside, address); err == nil {
			t.Errorf("%s answers to the outside, seen from %s", address, seen)
		}
		if dropped() == before {
			t.Errorf("%s: no drop counted", address)
		}
	}
}
