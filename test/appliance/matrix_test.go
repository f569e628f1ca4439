// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// pairs says of each pair who reaches whom, and which of the device's ports both
// directions of the connection pass: "." is neither. What begins with "-" gets no
// answer, and its first packet passes that port. A blank, "_", isn't tried.
//
// Outsiders have routes to the cluster's ranges, as one who means ill would set
// them; those on the Internet have none to the private network.
const pairs = `
from      near far clusterip lb near-int near-ext far-int far-ext vm outside gateway camera internet
pod       .    .   .         .  .        .        .       .       .  3       3       3      2
node      .    .   .         .  _        _        .       .       .  3       3       3      2
far-node  .    .   .         .  .        .        _       _       .  3       3       3      2
vm        -.   -.  -.        .  -.       .        -.      .       _  3       3       3      -.
outside   -3   -3  -3        3  -3       3        -3      3       3  _       .       .      -.
gateway   -3   -3  -3        3  -3       3        -3      3       3  .       _       .      -.
camera    -3   -3  -3        3  -3       3        -3      3       3  .       .       _      -.
internet  -2   -2  -2        -. -2       -.       -2      -.      -. -.      -.      -.     _
device    -2   -2  -2        .  .        .        .       .       .  3       3       -2     2
`

// party is somebody in the layout, with its addresses and the name that it answers by.
type party struct {
	ns        *netlab.Namespace
	four, six string
	name      string
}

// parties are those of the rows and columns.
func (a *Appliance) parties(t *testing.T, web [2]*site.Pod) map[string]party {
	na, nb, vm := a.Nodes[0], a.Nodes[1], netlab.New(t)
	vm4, vm6 := a.Leg("vm-1", "external", a.Device.Adopt(t, "vm-1", vm), "eth0")
	Serve(t, vm, "vm")
	vm.Route(t, CameraNet, netip.MustParseAddr(GatewayHost), "eth0")
	vm.Route(t, CameraNet6, netip.MustParseAddr(GatewayHost6), "eth0")
	client := na.StartPod("client", "sleep", "infinity")
	of := func(ns *netlab.Namespace, four, six netip.Addr, name string) party {
		return party{ns, four.String(), six.String(), name}
	}
	return map[string]party{
		"pod":       of(client.Net(), client.Addr, client.Addr6, ""),
		"near":      of(web[0].Net(), web[0].Addr, web[0].Addr6, "web-0"),
		"far":       of(web[1].Net(), web[1].Addr, web[1].Addr6, "web-1"),
		"clusterip": {nil, "10.96.0.30", "fd00:10:96::30", "web-"},
		"lb":        {nil, "192.168.50.210", "fd00:50::210", "web-"},
		"node":      of(na.Net, na.External, na.External6, "node-a"),
		"far-node":  of(nb.Net, nb.External, nb.External6, "node-b"),
		"near-int":  of(nil, na.Internal, na.Internal6, "node-a"),
		"near-ext":  of(nil, na.External, na.External6, "node-a"),
		"far-int":   of(nil, nb.Internal, nb.Internal6, "node-b"),
		"far-ext":   of(nil, nb.External, nb.External6, "node-b"),
		"vm":        of(vm, vm4, vm6, "vm"),
		"outside":   {a.Outside, OutsideHost, OutsideHost6, "outside"},
		"gateway":   {a.Gateway, GatewayHost, GatewayHost6, "gateway"},
		"camera":    {a.Camera, CameraHost, CameraHost6, "camera"},
		"internet":  {a.Internet, InternetHost, InternetHost6, "internet"},
		"device":    {a.Device.Net, "192.168.50.1", "fd00:50::1", ""},
	}
}

// seen is the address that the other side must see: on the Internet all are seen
// with the device's, on the external network pods and nodes with the node's there,
// and everybody else with its own. One that has several takes any of them elsewhere.
func seen(from, to string, who map[string]party) party {
	node := map[string]string{"pod": "node", "node": "node", "far-node": "far-node"}[from]
	switch to {
	case "internet":
		return party{four: "198.51.100.2", six: "2001:db8:100::2"}
	case "vm", "outside", "gateway", "camera", "far-ext":
		if node != "" {
			return who[node]
		}
	}
	if from == "node" || from == "far-node" || from == "device" || from == "gateway" && to == "camera" {
		return party{}
	}
	return who[from]
}

// probes are the pairs of one row, in both families.
func probes(from string, cells, columns []string, who map[string]party) (list []probe) {
	for i, cell := range cells {
		to := columns[i]
		ports, refused := strings.CutPrefix(cell, "-")
		if cell == "_" {
			continue
		}
		port := map[string]string{"2": "port2", "3": "port3"}[ports]
		as := seen(from, to, who)
		for _, family := range []struct{ what, to, seen string }{{"IPv4", who[to].four, as.four}, {"IPv6", who[to].six, as.six}} {
			p := probe{from + " to " + to + ", " + family.what, who[from].ns, family.to, who[to].name, family.seen, port}
			if refused {
				p.name = ""
			}
			list = append(list, p)
		}
	}
	return list
}

// TestReach goes every way of the layout, in both families.
func TestReach(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		a.serveAll(t)
		web, _ := a.shop(t)
		ways := a.Watch()
		who := a.parties(t, web)
		a.routesOfStrangers(t, who)
		for _, p := range []probe{
			{"no route yet: the cameras are sought on the Internet", who["pod"].ns, CameraHost, "", "", "port2"},
			{"no route yet, IPv6", who["pod"].ns, CameraHost6, "", "", "port2"},
		} {
			p.check(t, ways)
		}
		a.Declare("routes", camerasYAML)
		for _, n := range a.Nodes {
			a.awaitRoute(t, n, 10*time.Second)
		}
		rows := strings.Split(strings.TrimSpace(pairs), "\n")
		columns := strings.Fields(rows[0])[1:]
		var all sync.WaitGroup
		some := make(chan struct{}, 16) // at a time
		for _, row := range rows[1:] {
			cells := strings.Fields(row)
			for _, p := range probes(cells[0], cells[1:], columns, who) {
				some <- struct{}{}
				all.Go(func() { p.check(t, ways); <-some })
			}
		}
		all.Wait()
	})
}

// routesOfStrangers gives those outside routes to what they must not reach.
func (a *Appliance) routesOfStrangers(t *testing.T, who map[string]party) {
	na := a.Nodes[0]
	set := func(ns *netlab.Namespace, name, node, node6, device, device6 string) {
		for _, r := range [][2]string{
			{"10.96.0.0/16", node}, {"10.244.0.0/16", node}, {"172.31.0.0/24", device},
			{"fd00:10:96::/112", node6}, {"fd00:10:244::/48", node6}, {"fd00:31::/64", device6},
		} {
			ns.Route(t, r[0], netip.MustParseAddr(r[1]), name)
		}
	}
	for _, ns := range []*netlab.Namespace{a.Outside, a.Gateway, who["vm"].ns} {
		set(ns, "eth0", na.External.String(), na.External6.String(), "192.168.50.1", "fd00:50::1")
	}
	set(a.Internet, "eth0", "198.51.100.2", "2001:db8:100::2", "198.51.100.2", "2001:db8:100::2")
}
