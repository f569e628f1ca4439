// SPDX-License-Identifier: Apache-2.0

package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// podConf is the configuration list that the agent writes for the node's runtime.
const podConf = "/etc/cni/net.d/00-patchbay.conflist"

// Node is a node of the cluster: eth0 on the internal switch, eth1 on the external one.
type Node struct {
	*netlab.Node
	// Internal and External are the node's addresses on the two switches.
	Internal, External netip.Addr
	// Internal6 and External6 are those of IPv6, where the site has it.
	Internal6, External6 netip.Addr
	Pods                 map[string]*Pod

	site  *Site
	agent *netlab.Process
}

// StartNode raises a node with a leg on both switches and its agent.
func (s *Site) StartNode(name string) *Node {
	s.tb.Helper()
	n := &Node{Node: netlab.StartNode(s.tb, name), Pods: map[string]*Pod{}, site: s}
	addrs := s.join(n.Node)
	n.Internal, n.External = addrs["internal"], addrs["external"]
	s.enroll(n)
	return n
}

// Enroll makes a machine a node of the cluster that has its NICs already, eth0 on
// the internal switch and eth1 on the external one, with these addresses, and
// starts its agent.
func (s *Site) Enroll(machine *netlab.Node, internal, external, internal6, external6 netip.Addr) *Node {
	s.tb.Helper()
	n := &Node{Node: machine, Internal: internal, External: external, Internal6: internal6, External6: external6, Pods: map[string]*Pod{}, site: s}
	s.enroll(n)
	return n
}

// enroll declares the node and starts its agent.
func (s *Site) enroll(n *Node) {
	s.tb.Helper()
	podCIDRs, addrs := []string{fmt.Sprintf("10.244.%d.0/22", 4*len(s.Nodes))}, []netip.Addr{n.Internal}
	if n.Internal6.IsValid() {
		podCIDRs, addrs = append(podCIDRs, fmt.Sprintf("fd00:10:244:%x::/64", len(s.Nodes))), append(addrs, n.Internal6)
	}
	s.Declare("node-"+n.Name, nodeYAML(n.Name, podCIDRs, addrs))
	s.Nodes = append(s.Nodes, n)
	s.installCNI(n.Node)
	s.write(n.Path("/etc/patchbay/config.yaml"), s.config(n.Name, "nics: [{name: eth0, role: internal}, {name: eth1, role: external}]"))
	n.StartAgent()
}

// StartAgent starts the node's agent, as its supervisor does.
func (n *Node) StartAgent() {
	n.agent = n.Start(n.site.tb, netlab.Spec{Args: []string{n.site.Program("patchbayd")}, Log: n.site.log(n.Name)})
}

// Agent is the node's agent.
func (n *Node) Agent() *netlab.Process { return n.agent }

// StartController starts the cluster's controller on the node.
func (n *Node) StartController() *netlab.Process {
	return n.Start(n.site.tb, netlab.Spec{Args: []string{n.site.Program("patchbay-controller")}, Log: n.site.log("controller")})
}

// WaitReady waits until the agent has told the runtime of the network.
func (n *Node) WaitReady() {
	n.site.tb.Helper()
	wait := 30 * time.Second
	if os.Getenv("PATCHBAY_GUEST") != "" {
		wait *= 6 // programs load slowly on an emulated processor
	}
	netlab.WaitFor(n.site.tb, wait, "the agent of "+n.Name, func() error {
		_, err := os.Stat(n.Path(podConf))
		return err
	})
}

// nodeYAML is a node as Kubernetes would show it.
func nodeYAML(name string, podCIDRs []string, internal []netip.Addr) string {
	addresses := ""
	for _, a := range internal {
		addresses += fmt.Sprintf(`{type: InternalIP, address: "%s"}, `, a)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s, labels: {kubernetes.io/hostname: %s}}
spec: {podCIDR: "%s", podCIDRs: ["%s"]}
status:
  addresses: [%s{type: Hostname, address: %s}]
  conditions: [{type: Ready, status: "True"}]
`, name, name, podCIDRs[0], strings.Join(podCIDRs, `", "`), addresses, name)
}

// attachment is a leg or a pod's interface, as a runtime names it.
type attachment struct {
	conf, container, netns, ifName string // paths are inside the node
	ports                          string // host ports, as JSON
}

func (a attachment) args(verb string) []string {
	return []string{verb, a.conf, a.container, a.netns, a.ifName}
}

// attach has the node's runtime add an attachment and returns its addresses, of
// which there must be one of IPv4.
func (s *Site) attach(node *netlab.Node, a attachment) (v4, v6 netip.Addr) {
	s.tb.Helper()
	cmd := node.Command("env", append([]string{"PORT_MAPPINGS=" + a.ports, s.Program("runtime")}, a.args("add")...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.tb.Fatalf("CNI ADD of %s %s on %s: %v: %s", a.container, a.ifName, node.Name, err, &stderr)
	}
	var result types100.Result
	s.must(json.Unmarshal(out, &result), "result of CNI ADD")
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok && addr.Unmap().Is4() {
			v4 = addr.Unmap()
		} else if ok {
			v6 = addr
		}
	}
	if !v4.IsValid() {
		s.tb.Fatalf("CNI ADD of %s on %s gave no IPv4 address: %s", a.container, node.Name, out)
	}
	return v4, v6
}

// detach has the node's runtime delete an attachment.
func (s *Site) detach(node *netlab.Node, a attachment) {
	s.tb.Helper()
	node.Exec(s.tb, s.Program("runtime"), a.args("del")...)
}

// Pod is a process with a network namespace of its own that was added by CNI.
type Pod struct {
	Name string
	Node *Node
	Addr netip.Addr
	// Addr6 is its address of IPv6, where the site has it.
	Addr6 netip.Addr
	// Ports are its host ports, as CNI's capability portMappings has them.
	Ports string

	process *netlab.Process
}

// StartPod adds a pod to the node's network and starts a program in it.
func (n *Node) StartPod(name string, args ...string) *Pod {
	n.site.tb.Helper()
	return n.StartPodWithPorts(name, "", args...)
}

// StartPodWithPorts is StartPod for a pod that has ports of the node.
func (n *Node) StartPodWithPorts(name, ports string, args ...string) *Pod {
	n.site.tb.Helper()
	p := &Pod{Name: name, Node: n, Ports: ports}
	n.Exec(n.site.tb, "sh", "-c", `ip netns add "$0" && ip -n "$0" link set lo up`, name)
	p.Addr, p.Addr6 = n.site.attach(n.Node, p.attachment())
	p.process = n.Start(n.site.tb, netlab.Spec{
		Args: args, Env: []string{"POD_NAME=" + name}, Cgroup: filepath.Join("pods", name), Netns: p.netns(), Log: n.site.log(name),
	})
	n.Pods[name] = p
	return p
}

func (p *Pod) netns() string { return "/run/netns/" + p.Name }

func (p *Pod) attachment() attachment {
	return attachment{conf: podConf, container: p.Name, netns: p.netns(), ifName: "eth0", ports: p.Ports}
}

// Net is the pod's network namespace.
func (p *Pod) Net() *netlab.Namespace {
	return netlab.Open(p.Node.site.tb, p.Node.Path(p.netns()))
}

// Stop ends the pod as kubelet does: SIGTERM, time to drain, then its network.
func (p *Pod) Stop() {
	s := p.Node.site
	s.tb.Helper()
	s.must(p.process.Stop(10*time.Second), "stop "+p.Name)
	s.detach(p.Node.Node, p.attachment())
	p.Node.Exec(s.tb, "ip", "netns", "del", p.Name)
	delete(p.Node.Pods, p.Name)
}
