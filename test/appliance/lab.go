// SPDX-License-Identifier: Apache-2.0

// Package appliance raises the reference layout, out of namespaces: a device whose
// port 2 leads to the Internet and whose port 3 is enabled for compute and leads to
// a private network, on which a gateway leads on to the cameras' network; and two
// nodes with a leg on each of the device's switches. Both families everywhere.
//
//	Internet 203.0.113.5 -- port2 [device] port3 == external switch == outside 192.168.50.100
//	                               pb-int            | eth1 .10/.11     gateway .254 -- cameras 192.168.60.0/24
//	                          eth0 .10/.11 ------- nodes
//
// Tests under this folder say who reaches whom, and which way.
package appliance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// Appliance is the layout, raised.
type Appliance struct {
	tb  netlab.TB
	dir string

	*site.Site
	Device *netlab.Node
	// Internet is behind port 2, Outside and Gateway are on port 3's network, and
	// Camera is behind the gateway.
	Internet, Outside, Gateway, Camera *netlab.Namespace
	// Controller is the cluster's, on the first node.
	Controller *netlab.Process

	ports *netlab.Switch // what port 3 is plugged into
	agent *netlab.Process
}

// Addresses of who isn't a node.
const (
	InternetHost, InternetHost6 = "203.0.113.5", "2001:db8:5::5"
	OutsideHost, OutsideHost6   = "192.168.50.100", "fd00:50::100"
	GatewayHost, GatewayHost6   = "192.168.50.254", "fd00:50::fe"
	CameraHost, CameraHost6     = "192.168.60.7", "fd00:60::7"
	CameraNet, CameraNet6       = "192.168.60.0/24", "fd00:60::/64"
)

// New raises the layout with two nodes. Programs are taken from bin, files go below dir.
func New(tb netlab.TB, bin, dir string) *Appliance {
	tb.Helper()
	a := &Appliance{tb: tb, dir: dir, Site: site.New(tb, bin, dir)}
	a.raisePorts()
	a.Declare("switches", switchesYAML)
	a.Declare("pools", poolsYAML)
	a.startDevice()
	for _, name := range []string{"node-a", "node-b"} {
		a.raiseNode(netlab.StartNode(tb, name))
	}
	for _, n := range a.Nodes {
		n.WaitReady()
	}
	a.Controller = a.Nodes[0].StartController()
	return a
}

// raisePorts raises the device and what is behind its ports.
func (a *Appliance) raisePorts() {
	tb := a.tb
	a.Device = netlab.StartNode(tb, "device")
	a.Internet, a.Outside, a.Gateway, a.Camera = netlab.New(tb), netlab.New(tb), netlab.New(tb), netlab.New(tb)
	ports := a.Device.Net
	netlab.Wire(tb, ports, "port2", a.Internet, "eth0")
	a.ports = netlab.NewSwitch(tb)
	for ns, name := range map[*netlab.Namespace]string{ports: "port3", a.Outside: "eth0", a.Gateway: "eth0"} {
		a.ports.Join(tb, ns, name)
	}
	netlab.Wire(tb, a.Gateway, "eth1", a.Camera, "eth0")
	for _, at := range []struct {
		ns        *netlab.Namespace
		name      string
		addresses []string
	}{
		{ports, "port2", []string{"198.51.100.2/24", "2001:db8:100::2/64"}},
		{ports, "port3", []string{"192.168.50.1/24", "fd00:50::1/64"}},
		{a.Internet, "eth0", []string{"198.51.100.1/24", "2001:db8:100::1/64"}},
		{a.Internet, "lo", []string{InternetHost + "/32", InternetHost6 + "/128"}},
		{a.Outside, "eth0", []string{OutsideHost + "/24", OutsideHost6 + "/64"}},
		{a.Gateway, "eth0", []string{GatewayHost + "/24", GatewayHost6 + "/64"}},
		{a.Gateway, "eth1", []string{"192.168.60.1/24", "fd00:60::1/64"}},
		{a.Camera, "eth0", []string{CameraHost + "/24", CameraHost6 + "/64"}},
	} {
		for _, address := range at.addresses {
			at.ns.Addr(tb, at.name, address)
		}
	}
	a.Gateway.Sysctl(tb, "net/ipv4/ip_forward", "1")
	a.Gateway.Sysctl(tb, "net/ipv6/conf/all/forwarding", "1")
	for _, r := range []struct {
		ns            *netlab.Namespace
		prefix, via   string
		networkDevice string
	}{
		{ports, "default", "198.51.100.1", "port2"}, {ports, "default", "2001:db8:100::1", "port2"},
		{a.Outside, CameraNet, GatewayHost, "eth0"}, {a.Outside, CameraNet6, GatewayHost6, "eth0"},
		{a.Camera, "default", "192.168.60.1", "eth0"}, {a.Camera, "default", "fd00:60::1", "eth0"},
	} {
		r.ns.Route(tb, r.prefix, netip.MustParseAddr(r.via), r.networkDevice)
	}
}

const switchesYAML = `
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: internal}
spec: {type: Internal, addresses: [172.31.0.1/24, "fd00:31::1/64"]}
---
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: external}
spec: {type: External, port: port3}
`

const poolsYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: services}
spec: {use: LoadBalancer, ranges: [{first: 192.168.50.200, last: 192.168.50.220}, {first: "fd00:50::200", last: "fd00:50::220"}]}
`

// legs are the CNI networks of the device's switches.
func legs() map[string]string {
	conflist := func(name, ranges, routes string) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"plugins":[{"type":"patchbay-vswitch","switch":%q,"guard":false,
 "ipam":{"type":"patchbay-ipam","leases":"/var/lib/patchbay/nodeleases.db","ranges":[%s]%s}}]}`, name, name, ranges, routes)
	}
	return map[string]string{
		"internal": conflist("internal", `[{"subnet":"172.31.0.0/24","rangeStart":"172.31.0.10","rangeEnd":"172.31.0.19"}],
  [{"subnet":"fd00:31::/64","rangeStart":"fd00:31::10","rangeEnd":"fd00:31::19"}]`,
			`,"routes":[{"dst":"0.0.0.0/0","gw":"172.31.0.1"},{"dst":"::/0","gw":"fd00:31::1"}]`),
		"external": conflist("external", `[{"subnet":"192.168.50.0/24","rangeStart":"192.168.50.10","rangeEnd":"192.168.50.19"}],
  [{"subnet":"fd00:50::/64","rangeStart":"fd00:50::10","rangeEnd":"fd00:50::19"}]`, ""),
	}
}

// startDevice starts the device's agent and waits for its switches.
func (a *Appliance) startDevice() {
	a.write(a.Device.Path("/etc/patchbay/config.yaml"), fmt.Sprintf("nodeName: device\nsource: file:%s\npaths: {status: %s}\n",
		filepath.Join(a.dir, "objects"), filepath.Join(a.dir, "status")))
	a.Device.Exec(a.tb, a.Program("patchbayd"), "install-cni", "--dir", "/opt/cni/bin")
	a.agent = a.Device.Start(a.tb, netlab.Spec{Args: []string{a.Program("patchbayd"), "--role=device"}, Log: a.log("device")})
	netlab.WaitFor(a.tb, 15*time.Second, "the device's switches", func() error {
		_, err := a.Device.Net.TryExec("sh", "-e", "-c", `ip link show dev pb-int up; ip -o link show master pb-ext | grep port3
			ip -o addr show dev pb-ext | grep 192.168.50.1/24`)
		return err
	})
	for name, conf := range legs() {
		a.write(a.Device.Path("/etc/cni/net.d/"+name+".conflist"), conf)
	}
}

// raiseNode gives a machine its legs and makes it a node.
func (a *Appliance) raiseNode(machine *netlab.Node) *site.Node {
	netns := a.Device.Adopt(a.tb, machine.Name, machine.Net)
	internal, internal6 := a.Leg(machine.Name, "internal", netns, "eth0")
	external, external6 := a.Leg(machine.Name, "external", netns, "eth1")
	return a.Enroll(machine, internal, external, internal6, external6)
}

// Leg plugs a namespace that the device knows into one of its switches, and
// returns the leg's addresses.
func (a *Appliance) Leg(container, network, netns, ifName string) (v4, v6 netip.Addr) {
	a.tb.Helper()
	cmd := a.Device.Command(a.Program("runtime"), "add", "/etc/cni/net.d/"+network+".conflist", container, netns, ifName)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		a.tb.Fatalf("leg of %s on %s: %v: %s", container, network, err, &stderr)
	}
	var result types100.Result
	if err := json.Unmarshal(out, &result); err != nil {
		a.tb.Fatalf("leg of %s on %s: %v", container, network, err)
	}
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok && addr.Unmap().Is4() {
			v4 = addr.Unmap()
		} else if ok {
			v6 = addr
		}
	}
	return v4, v6
}

// log opens the log of a program.
func (a *Appliance) log(name string) *os.File {
	f, err := os.Create(filepath.Join(a.Logs(), name+".log"))
	if err != nil {
		a.tb.Fatalf("open log: %v", err)
	}
	a.tb.Cleanup(func() { f.Close() })
	return f
}

// write writes a file at once.
func (a *Appliance) write(path, text string) {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	for _, err := range []error{os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(temp, []byte(text), 0o644), os.Rename(temp, path)} {
		if err != nil {
			a.tb.Fatalf("write %s: %v", path, err)
		}
	}
}

// Ctl runs patchbayctl on a machine.
func (a *Appliance) Ctl(machine *netlab.Node, args ...string) (string, error) {
	out, err := machine.Command(a.Program("patchbayctl"), args...).CombinedOutput()
	return string(out), err
}
