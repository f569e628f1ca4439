// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// port3 gives the nodes' NIC on the external switch the name and the network that
// the reference example has.
func (a *Appliance) port3(t *testing.T) {
	for i, n := range a.Nodes {
		n.Net.Exec(t, "ip", "link", "property", "add", "dev", "eth1", "altname", "Port3")
		n.Net.Exec(t, "ip", "addr", "add", fmt.Sprintf("192.168.20.%d/24", 10+i), "dev", "eth1")
		netlab.WaitFor(t, 5*time.Second, "the agent's knowledge of Port3", func() error {
			if nic := a.nic(t, n, "eth1"); !slices.Contains(nic.AltNames, "Port3") || !strings.Contains(fmt.Sprint(nic.Addrs), "192.168.20.") {
				return fmt.Errorf("eth1 is %+v", nic)
			}
			return nil
		})
	}
}

const referenceYAML = `
apiVersion: patchbay.net/v1alpha1
kind: NodeRoute
metadata: {name: reference}
spec: {interface: Port3, destination: 192.168.20.0/24, nextHop: 192.168.20.1, metric: 100}
`

// reference adds, gets and removes the example's route, by hand and by object.
func (a *Appliance) reference(t *testing.T) {
	const dst, inForce = "192.168.20.0/24", "192.168.20.0/24 via 192.168.20.1 dev eth1 proto 81 metric 100 onlink"
	a.port3(t)
	na := a.Nodes[0]
	everywhere := func(there bool) {
		t.Helper()
		for _, n := range a.Nodes {
			netlab.WaitFor(t, 10*time.Second, fmt.Sprintf("the route on %s: %t", n.Name, there), func() error {
				if got := n.Net.Exec(t, "ip", "route"); strings.Contains(got, inForce) != there {
					return errors.New(got)
				}
				return nil
			})
		}
	}
	a.mustCtl(t, na.Node, "routes", "add", "Port3", dst, "--next-hop", "192.168.20.1", "--metric", "100")
	everywhere(true)
	for _, n := range a.Nodes {
		got := a.routes(t, n, "routes", "get", "Port3")
		want := agentapi.Route{Interface: "Port3", Destination: netip.MustParsePrefix(dst), NextHop: netip.MustParseAddr("192.168.20.1"), Metric: 100}
		if len(got) != 1 || got[0].Interface != want.Interface || got[0].Destination != want.Destination || got[0].NextHop != want.NextHop || got[0].Metric != want.Metric || got[0].State != "Applied" {
			t.Errorf("%s: get Port3: %+v, want that route alone", n.Name, got)
		}
	}
	if out, err := a.Ctl(na.Node, "routes", "get", "eth0"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("get eth0, which has the system's routes alone: %v: %s", err, out)
	}
	a.mustCtl(t, a.Nodes[1].Node, "routes", "remove", "Port3", dst)
	everywhere(false)
	a.Declare("reference", referenceYAML)
	everywhere(true)
	a.Undeclare("reference")
	everywhere(false)
}

// badObjects declares what can't be: each node says why, and has no such route.
func (a *Appliance) badObjects(t *testing.T) {
	n := a.Nodes[0]
	n.Net.Exec(t, "ip", "addr", "change", n.Internal.String()+"/24", "dev", "eth0", "valid_lft", "3600", "preferred_lft", "3600")
	bad := []struct{ name, spec, want string }{
		{"dynamic", "interface: eth0, destination: 10.71.0.0/16, nextHop: 172.31.0.1", "eth0 has a dynamic IPv4 address (DHCP)"},
		{"off-link", "interface: eth1, destination: 10.72.0.0/16, nextHop: 10.9.9.9", "next hop 10.9.9.9 is not on the link"},
		{"no-interface", "interface: Port9, destination: 10.73.0.0/16, nextHop: 192.168.50.254", "no interface Port9 on this node"},
		{"pods", "interface: eth1, destination: 10.244.4.0/22, nextHop: 192.168.50.254", "in the cluster's own range 10.244.0.0/16"},
		{"services", "interface: eth1, destination: \"fd00:10:96::/112\", nextHop: \"fd00:50::fe\"", "in the cluster's own range fd00:10:96::/112"},
		{"first", "interface: eth1, destination: 10.74.0.0/16, nextHop: 192.168.50.254, metric: 100", ""},
		{"second", "interface: eth1, destination: 10.74.0.0/16, nextHop: 192.168.50.254, metric: 50", "with metric 100, by NodeRoute first: one destination has one custom route per interface"},
		{"host-bits", "interface: eth1, destination: 10.75.0.1/16, nextHop: 192.168.50.254", "host bits"},
		{"default", "interface: eth1, destination: 0.0.0.0/0, nextHop: 192.168.50.254", "default route"},
		{"default6", "interface: eth1, destination: \"::/0\", nextHop: \"fd00:50::fe\"", "default route"},
		{"families", "interface: eth1, destination: 10.76.0.0/16, nextHop: \"fd00:50::fe\"", "family"},
	}
	for _, b := range bad {
		a.Declare("bad-"+b.name, fmt.Sprintf("apiVersion: patchbay.net/v1alpha1\nkind: NodeRoute\nmetadata: {name: %s}\nspec: {%s}\n", b.name, b.spec))
	}
	for _, b := range bad {
		netlab.WaitFor(t, 10*time.Second, "why "+b.name+" can't be", func() error {
			out := a.mustCtl(t, n.Node, "routes", "-o", "json") + a.mustCtl(t, n.Node, "status", "-o", "json")
			if !strings.Contains(out, b.want) {
				return fmt.Errorf("%q is missing in %s", b.want, out)
			}
			return nil
		})
	}
	if got := n.Net.Exec(t, "ip", "route", "show", "proto", "81"); strings.TrimSpace(got) != "10.74.0.0/16 via 192.168.50.254 dev eth1 metric 100 onlink" {
		t.Errorf("in force: %s", got)
	}
	for _, b := range bad {
		a.Undeclare("bad-" + b.name)
	}
	netlab.WaitFor(t, 10*time.Second, "their end", func() error {
		if got := a.routes(t, n, "routes"); len(got) > 0 {
			return fmt.Errorf("routes %+v", got)
		}
		return nil
	})
	n.Net.Exec(t, "ip", "addr", "change", n.Internal.String()+"/24", "dev", "eth0", "valid_lft", "forever", "preferred_lft", "forever")
}

// six reaches the cameras by IPv6: by the gateway's address, and by its link-local
// one, which only the interface tells apart.
func (a *Appliance) six(t *testing.T, ways *Ways) {
	n := a.Nodes[0]
	for _, hop := range []string{GatewayHost6, linkLocal(t, a.Gateway, "eth0")} {
		a.mustCtl(t, n.Node, "routes", "add", "eth1", CameraNet6, "--next-hop", hop)
		for _, n := range a.Nodes {
			probe{n.Name + " to a camera by " + hop, n.Net, CameraHost6, "camera", n.External6.String(), "port3"}.check(t, ways)
		}
		n.Net.Exec(t, "ip", "-6", "route", "flush", "proto", "81")
		probe{"after somebody removed it", n.Net, CameraHost6, "camera", n.External6.String(), "port3"}.check(t, ways)
		a.mustCtl(t, n.Node, "routes", "remove", "eth1", CameraNet6)
	}
}

// linkLocal is an interface's link-local address.
func linkLocal(t *testing.T, ns *netlab.Namespace, name string) string {
	t.Helper()
	text, _, _ := strings.Cut(ns.Exec(t, "sh", "-c", "ip -o -6 addr show dev "+name+" scope link | sed 's/.*inet6 //; s|/.*||'"), "\n")
	return netip.MustParseAddr(text).String()
}

// withoutAgent adds a route where no agent runs just now: it is in force at once,
// and everywhere once an agent is there.
func (a *Appliance) withoutAgent(t *testing.T, n *site.Node) {
	_ = n.Agent().Signal(9)
	_ = n.Agent().Wait()
	a.mustCtl(t, n.Node, "routes", "add", "eth1", "10.77.0.0/16", "--next-hop", GatewayHost)
	if got := n.Net.Exec(t, "ip", "route"); !strings.Contains(got, "10.77.0.0/16 via "+GatewayHost) {
		t.Errorf("without the agent: %s", got)
	}
	n.StartAgent()
	for _, n := range a.Nodes {
		netlab.WaitFor(t, 15*time.Second, "the route on "+n.Name, func() error {
			if got := n.Net.Exec(t, "ip", "route"); !strings.Contains(got, "10.77.0.0/16 via "+GatewayHost) {
				return errors.New(got)
			}
			return nil
		})
	}
	a.mustCtl(t, n.Node, "routes", "remove", "eth1", "10.77.0.0/16")
}
