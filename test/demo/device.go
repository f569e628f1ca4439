// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// The addresses of the demo's two networks.
const (
	internalGateway = "172.31.0.1/24" // the device, on the internal switch
	clientAddress   = "192.168.50.100"
)

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

// conflist is the network's CNI configuration list on the device: addresses
// come from the Node pool of that switch.
func (n network) conflist() string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"%s","plugins":[{"type":"patchbay-vswitch","switch":"%s",
 "ipam":{"type":"patchbay-ipam","leases":"/var/lib/patchbay/nodeleases.db",
  "ranges":[[{"subnet":"%s","rangeStart":"%s","rangeEnd":"%s"}]]%s}}]}
`, n.name, n.name, n.subnet, n.first, n.last, n.routes)
}

// device is the machine with the ports: the switches' home.
type device struct {
	node     *netlab.Node
	internet *netlab.Namespace // behind port 2, where the default route leads
	client   *netlab.Namespace // behind port 3, which the external switch is bridged to
}

// startDevice raises a device whose patchbayd makes the declared switches.
func startDevice(s *stage) *device {
	d := &device{node: netlab.StartNode(s, "device"), internet: netlab.New(s), client: netlab.New(s)}
	netlab.Wire(s, d.node.Net, "port2", d.internet, "eth0")
	netlab.Wire(s, d.node.Net, "port3", d.client, "eth0")
	d.node.Net.Addr(s, "port2", "198.51.100.2/24")
	d.node.Net.Route(s, "default", netip.MustParseAddr("198.51.100.1"), "port2")
	d.internet.Addr(s, "eth0", "198.51.100.1/24")
	d.node.Net.Addr(s, "port3", "192.168.50.1/24")
	d.client.Addr(s, "eth0", clientAddress+"/24")

	s.write(objectsDir+"/switches.yaml", switchesYAML)
	s.write(d.node.Path("/etc/patchbay/config.yaml"), configYAML("device", ""))
	installCNI(s, d.node)
	d.node.Start(s, netlab.Spec{Args: []string{s.program("patchbayd"), "--role=device"}, Log: s.log("device.log")})
	netlab.WaitFor(s, 10*time.Second, "the device's switches", func() error {
		for _, bridge := range []string{"pb-int", "pb-ext"} {
			if _, err := d.node.Net.TryExec("ip", "link", "show", "dev", bridge, "up"); err != nil {
				return err
			}
		}
		_, err := d.node.Net.TryExec("sh", "-c", "ip -o link show master pb-ext | grep port3 && ip -o addr show pb-ext | grep 192.168.50.1/24")
		return err
	})
	for _, n := range networks() {
		s.write(d.node.Path(cniConf+"/"+n.name+".conflist"), n.conflist())
	}
	return d
}

// join gives a node a leg on each switch and returns its addresses by switch.
func (d *device) join(s *stage, node *netlab.Node) map[string]netip.Addr {
	netns := d.node.Adopt(s, node.Name, node.Net)
	addrs := map[string]netip.Addr{}
	for _, n := range networks() {
		leg := attachment{conf: cniConf + "/" + n.name + ".conflist", container: node.Name, netns: netns, ifName: n.ifName}
		for _, ip := range leg.add(s, d.node).IPs {
			addr, _ := netip.AddrFromSlice(ip.Address.IP)
			addrs[n.name] = addr.Unmap()
		}
	}
	return addrs
}
