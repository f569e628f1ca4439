// SPDX-License-Identifier: Apache-2.0

// Package lab raises a Kubernetes cluster on one machine: each of its
// machines is a set of namespaces, joined by an internal and an external
// switch that are namespaces too. Nothing of it is visible from the root
// network and mount namespaces but the names under /run/netns.
package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

// The ranges of the cluster; the IPv6 ones are used with DualStack only.
const (
	podCIDR4     = "10.244.0.0/16"
	podCIDR6     = "fd00:10:244::/56"
	serviceCIDR4 = "10.96.0.0/16"
	serviceCIDR6 = "fd00:10:96::/112"
	poolCIDR4    = "198.51.100.192/27" // LoadBalancer addresses, on the external switch
	poolCIDR6    = "2001:db8:100::c0:0/112"
	apiService4  = "10.96.0.1"
	apiService6  = "fd00:10:96::1"
	// ClusterDNS is the address of the cluster's DNS Service.
	ClusterDNS = "10.96.0.10"

	clusterDomain = "cluster.local"
	pauseImage    = "registry.k8s.io/pause:3.10.2"
)

// Lab describes one cluster. Its Name prefixes all that it makes.
type Lab struct {
	Name      string
	Dir       string   // state; nothing outlives Down
	Images    []string // OCI archives that every node imports
	DualStack bool
	Machines  []Machine // the control plane first
}

// Machine is a node of the cluster.
type Machine struct {
	Name         string
	ControlPlane bool
	Zone         string
	Internal     Port
	External     Port // the zero Port: no such NIC
}

// Port is a NIC with its addresses, each with the length of its subnet.
type Port struct {
	V4, V6 netip.Prefix
}

// Switch is a bridge in a namespace of its own, which routes for nobody but
// answers at its gateway address.
type Switch struct {
	Name    string
	Gateway Port
}

// Nodes is how many nodes a lab has unless it is asked for others, and MaxNodes
// how many it may have.
const (
	Nodes    = 2
	MaxNodes = 8
	zones    = 3
)

// New returns a lab of a control plane, which has an internal NIC only, and
// the default number of nodes with two NICs each.
func New(name, stateDir string) *Lab {
	l := &Lab{Name: name, Dir: filepath.Join(stateDir, name)}
	l.SetNodes(Nodes)
	return l
}

// SetNodes gives a lab that isn't up n nodes, MaxNodes at most, in three zones.
func (l *Lab) SetNodes(n int) {
	l.Machines = []Machine{{Name: "control-plane", ControlPlane: true, Internal: internalPort(2)}}
	for i := range min(n, MaxNodes) {
		l.Machines = append(l.Machines, Machine{
			Name:     fmt.Sprintf("node-%c", 'a'+i),
			Zone:     fmt.Sprintf("zone-%d", 1+i%zones),
			Internal: internalPort(byte(11 + i)),
			External: externalPort(byte(11 + i)),
		})
	}
}

func internalPort(host byte) Port {
	return Port{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, 0, host}), 24),
		V6: netip.MustParsePrefix(fmt.Sprintf("fd00:172:30::%x/64", host)),
	}
}

func externalPort(host byte) Port {
	return Port{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, host}), 24),
		V6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:100::%x/64", host)),
	}
}

// ClientPort is the NIC of the outside client on the external switch.
func ClientPort() Port { return externalPort(100) }

// testerPorts are the NICs of the machine that upstream's tests run on: it
// reaches the API server, and is a client from outside for Services.
func testerPorts() (internal, external Port) { return internalPort(101), externalPort(101) }

func switches() []Switch {
	return []Switch{
		{Name: "internal", Gateway: internalPort(1)},
		{Name: "external", Gateway: externalPort(1)},
	}
}

// addresses lists those of p that the lab's families use.
func (l *Lab) addresses(p Port) []netip.Prefix {
	switch {
	case !p.V4.IsValid():
		return nil
	case l.DualStack:
		return []netip.Prefix{p.V4, p.V6}
	default:
		return []netip.Prefix{p.V4}
	}
}

// families returns v4, or both where the lab is dual-stack.
func (l *Lab) families(v4, v6 string) []string {
	if l.DualStack {
		return []string{v4, v6}
	}
	return []string{v4}
}

// Families is how many address families the lab has.
func (l *Lab) Families() int { return len(l.families("4", "6")) }

// Netns is the name under /run/netns of the network namespace of a machine, a
// switch, the client or the tester.
func (l *Lab) Netns(part string) string { return l.Name + "-" + part }

// namespaces lists all that a lab of these machines makes.
func (l *Lab) namespaces() []string {
	names := []string{l.Netns("client"), l.Netns("tester")}
	for _, s := range switches() {
		names = append(names, l.Netns(s.Name))
	}
	for _, m := range l.Machines {
		names = append(names, l.Netns(m.Name))
	}
	return names
}

// machine returns the machine called name.
func (l *Lab) machine(name string) (Machine, error) {
	i := slices.IndexFunc(l.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return Machine{}, fmt.Errorf("machine %s: not in lab %s", name, l.Name)
	}
	return l.Machines[i], nil
}

// controlPlane returns the machine that runs the API server.
func (l *Lab) controlPlane() Machine {
	return l.Machines[slices.IndexFunc(l.Machines, func(m Machine) bool { return m.ControlPlane })]
}

// APIServer is the API server's own address, which needs no Service.
func (l *Lab) APIServer() string {
	return "https://" + netip.AddrPortFrom(l.controlPlane().Internal.V4.Addr(), 6443).String()
}

// Site is what an operator writes into Patchbay's configuration.
type Site struct {
	APIServer                         string
	PodCIDRs, ServiceCIDRs, PoolCIDRs []string
}

// Site returns the configuration of this lab.
func (l *Lab) Site() Site {
	return Site{
		APIServer:    l.APIServer(),
		PodCIDRs:     l.families(podCIDR4, podCIDR6),
		ServiceCIDRs: l.families(serviceCIDR4, serviceCIDR6),
		PoolCIDRs:    l.families(poolCIDR4, poolCIDR6),
	}
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}
