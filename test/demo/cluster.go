// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// node is a node of the cluster.
type node struct {
	*netlab.Node
	addrs   map[string]netip.Addr // by switch
	podCIDR string
	pods    map[string]*pod
}

// conflist is what the agent writes for the node's runtime.
const conflist = cniConf + "/00-patchbay.conflist"

// startNode raises a node with a leg on both switches and its agent.
func startNode(s *stage, d *device, name, podCIDR string) *node {
	n := &node{Node: netlab.StartNode(s, name), podCIDR: podCIDR, pods: map[string]*pod{}}
	n.addrs = d.join(s, n.Node)
	installCNI(s, n.Node)
	s.write(objectsDir+"/node-"+name+".yaml", nodeYAML(name, podCIDR, n.addrs["internal"]))
	s.write(n.Path("/etc/patchbay/config.yaml"), configYAML(name, "nics: [{name: eth0, role: internal}, {name: eth1, role: external}]"))
	n.Start(s, netlab.Spec{Args: []string{s.program("patchbayd")}, Log: s.log(name + ".log")})
	return n
}

// waitReady waits until the agent has told the runtime of the network.
func (n *node) waitReady(s *stage) {
	netlab.WaitFor(s, 30*time.Second, "the agent of "+n.Name, func() error {
		_, err := os.Stat(n.Path(conflist))
		return err
	})
}

// pod is a process with a network namespace of its own that was added by CNI.
type pod struct {
	name    string
	node    *node
	addr    netip.Addr
	process *netlab.Process
}

// startPod starts a program as a pod.
func (n *node) startPod(s *stage, name string, args ...string) *pod {
	p := &pod{name: name, node: n}
	n.Exec(s, "ip", "netns", "add", name)
	n.Exec(s, "ip", "-n", name, "link", "set", "lo", "up")
	for _, ip := range p.attachment().add(s, n.Node).IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok && addr.Unmap().Is4() {
			p.addr = addr.Unmap()
		}
	}
	p.process = n.Start(s, netlab.Spec{
		Args: args, Env: []string{"POD_NAME=" + name}, Cgroup: filepath.Join("pods", name),
		Netns: "/run/netns/" + name, Log: s.log(name + ".log"),
	})
	n.pods[name] = p
	return p
}

func (p *pod) attachment() attachment {
	return attachment{conf: conflist, container: p.name, netns: "/run/netns/" + p.name, ifName: "eth0"}
}

// stop ends the pod as kubelet does: SIGTERM, time to drain, then its network.
func (p *pod) stop(s *stage) {
	if err := p.process.Stop(10 * time.Second); err != nil {
		s.Fatalf("stop %s: %v", p.name, err)
	}
	p.attachment().del(s, p.node.Node)
	p.node.Exec(s, "ip", "netns", "del", p.name)
	delete(p.node.pods, p.name)
}

// waitReady waits for the pod's readiness as kubelet does, from its node.
func (p *pod) waitReady(s *stage) {
	client := http.Client{Timeout: time.Second, Transport: transport(p.node.Net)}
	netlab.WaitFor(s, 20*time.Second, "readiness of "+p.name, func() error {
		resp, err := client.Get(fmt.Sprintf("http://%s:8080/ready", p.addr))
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
}

// transport makes a connection for each request, from a network namespace.
func transport(ns *netlab.Namespace) http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true, DialContext: dialer(ns)}
}

// dialer dials from a network namespace.
func dialer(ns *netlab.Namespace) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// startWeb starts a pod of the web tier and waits until it is ready.
func startWeb(s *stage, n *node, name string) *pod {
	p := n.startPod(s, name, s.program("web"), "-listen", ":8080", "-database", databaseIP+":6379", "-lame-duck", "1s")
	p.waitReady(s)
	return p
}

// startDatabase starts the database's pod.
func startDatabase(s *stage, n *node, name string) *pod {
	return n.startPod(s, name, "redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp")
}
