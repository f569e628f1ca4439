// SPDX-License-Identifier: Apache-2.0

package site

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// ClientAddress is the outside client's, on the external network.
const ClientAddress = "192.168.50.100"

// network is one of the device's switches as a CNI network of legs.
type network struct {
	name, ifName string
	subnet       string
	first, last  string
	routes       string // more of the IPAM's configuration
}

// networks are the switches that each node has a leg on, in the order of its NICs.
func networks() []network {
	return []network{
		{name: "internal", ifName: "eth0", subnet: "172.31.0.0/24", first: "172.31.0.10", last: "172.31.0.19",
			routes: `,"routes":[{"dst":"0.0.0.0/0","gw":"172.31.0.1"}]`},
		{name: "external", ifName: "eth1", subnet: "192.168.50.0/24", first: "192.168.50.10", last: "192.168.50.19"},
	}
}

// conf is where the device's runtime has the network's configuration list.
func (n network) conf() string { return "/etc/cni/net.d/" + n.name + ".conflist" }

// conflist is the network's CNI configuration list on the device: addresses
// come from the Node pool of that switch. Its legs are nodes', which speak for
// LoadBalancer addresses, too.
func (n network) conflist() string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"%s","plugins":[{"type":"patchbay-vswitch","switch":"%s","guard":false,
 "ipam":{"type":"patchbay-ipam","leases":"/var/lib/patchbay/nodeleases.db",
  "ranges":[[{"subnet":"%s","rangeStart":"%s","rangeEnd":"%s"}]]%s}}]}
`, n.name, n.name, n.subnet, n.first, n.last, n.routes)
}

const switchesYAML = `
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: internal}
spec: {type: Internal, addresses: [172.31.0.1/24]}
---
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: external}
spec: {type: External, port: port3}
`

const poolsYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: nodes-internal}
spec: {use: Node, cidrs: [172.31.0.0/24], gateway: 172.31.0.1}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: nodes-external}
spec: {use: Node, ranges: [{first: 192.168.50.10, last: 192.168.50.19}]}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: services}
spec: {use: LoadBalancer, ranges: [{first: 192.168.50.200, last: 192.168.50.220}]}
`

// StartDevice raises the device, whose patchbayd makes the two switches, with the
// Internet behind its port 2 and the client behind its port 3.
func (s *Site) StartDevice() {
	s.tb.Helper()
	s.Device, s.Internet, s.Client = netlab.StartNode(s.tb, "device"), netlab.New(s.tb), netlab.New(s.tb)
	ports := s.Device.Net
	netlab.Wire(s.tb, ports, "port2", s.Internet, "eth0")
	netlab.Wire(s.tb, ports, "port3", s.Client, "eth0")
	ports.Addr(s.tb, "port2", "198.51.100.2/24")
	ports.Route(s.tb, "default", netip.MustParseAddr("198.51.100.1"), "port2")
	s.Internet.Addr(s.tb, "eth0", "198.51.100.1/24")
	ports.Addr(s.tb, "port3", "192.168.50.1/24")
	s.Client.Addr(s.tb, "eth0", ClientAddress+"/24")

	s.Declare("switches", switchesYAML)
	s.Declare("pools", poolsYAML)
	s.write(s.Device.Path("/etc/patchbay/config.yaml"), s.config("device", ""))
	s.installCNI(s.Device)
	s.Device.Start(s.tb, netlab.Spec{Args: []string{s.Program("patchbayd"), "--role=device"}, Log: s.log("device")})
	netlab.WaitFor(s.tb, 15*time.Second, "the device's switches", func() error {
		_, err := ports.TryExec("sh", "-e", "-c", `ip link show dev pb-int up; ip link show dev pb-ext up
			ip -o link show master pb-ext | grep port3; ip -o addr show dev pb-ext | grep 192.168.50.1/24`)
		return err
	})
	for _, n := range networks() {
		s.write(s.Device.Path(n.conf()), n.conflist())
	}
}

// join gives a node a leg on each switch and returns its addresses by switch.
func (s *Site) join(node *netlab.Node) map[string]netip.Addr {
	netns := s.Device.Adopt(s.tb, node.Name, node.Net)
	addrs := map[string]netip.Addr{}
	for _, n := range networks() {
		leg := attachment{conf: n.conf(), container: node.Name, netns: netns, ifName: n.ifName}
		addrs[n.name], _ = s.attach(s.Device, leg)
	}
	return addrs
}

// config is the configuration of a machine's patchbayd; more is added to it.
func (s *Site) config(name, more string) string {
	return fmt.Sprintf(`
nodeName: %s
source: file:%s
podCIDRs: [10.244.0.0/16, "fd00:10:244::/48"]
serviceCIDRs: [10.96.0.0/16, "fd00:10:96::/112"]
paths: {status: %s}
%s`, name, s.objects(), s.status(), more)
}
