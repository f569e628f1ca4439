// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// raise raises the layout, with programs made for this test.
func raise(t *testing.T) *Appliance {
	t.Helper()
	bin := t.TempDir()
	site.Build(t, bin)
	a := New(t, bin, t.TempDir())
	t.Cleanup(func() {
		if t.Failed() {
			a.logs(t)
		}
	})
	return a
}

// logs shows what the programs logged.
func (a *Appliance) logs(t *testing.T) {
	t.Log(a.Device.Exec(t, "sh", "-c", fmt.Sprintf("tail -n 30 %s/*.log", a.Logs())))
}

// shop is a Service with a pod on each node, an address outside, and a node port.
func (a *Appliance) shop(t *testing.T) (web [2]*site.Pod, service site.Service) {
	t.Helper()
	service = site.Service{Name: "web", ClusterIP: "10.96.0.30", ClusterIP6: "fd00:10:96::30", Port: ServerPort, TargetPort: ServerPort, LoadBalancer: true,
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.50.210"), netip.MustParseAddr("fd00:50::210")}}
	for i, n := range a.Nodes {
		web[i] = n.StartPod(fmt.Sprintf("web-%d", i), "sleep", "infinity")
		Serve(t, web[i].Net(), web[i].Name)
	}
	a.Serve(service, web[0], web[1])
	a.LoadBalancerIP(service)
	return web, service
}

// serveAll has everybody beside the cluster listen.
func (a *Appliance) serveAll(t *testing.T) {
	for name, ns := range map[string]*netlab.Namespace{"internet": a.Internet, "outside": a.Outside, "camera": a.Camera, "gateway": a.Gateway} {
		Serve(t, ns, name)
	}
	for _, n := range a.Nodes {
		Serve(t, n.Net, n.Name)
	}
}

const camerasYAML = `
apiVersion: patchbay.net/v1alpha1
kind: NodeRoute
metadata: {name: cameras}
spec: {interface: eth1, destination: 192.168.60.0/24, nextHop: 192.168.50.254, metric: 100}
---
apiVersion: patchbay.net/v1alpha1
kind: NodeRoute
metadata: {name: cameras6}
spec: {interface: eth1, destination: "fd00:60::/64", nextHop: "fd00:50::fe"}
`

// probe is one way to go and what must come of it.
type probe struct {
	what string
	from *netlab.Namespace
	to   string // an address
	// name is who answers, empty if nobody must; seen the address it must see.
	name, seen string
	// ports are those of the device that the first packet passes.
	ports string
}

// check tries a probe until it comes out as it must; what must not be reached is tried once.
func (p probe) check(t *testing.T, w *Ways) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr(p.to), ServerPort)
	if p.name == "" {
		if got := w.Try(p.from, to); got.Err == nil || got.Ports != p.ports {
			t.Errorf("%s: %+v, want no answer, passing %q", p.what, got, p.ports)
		} else {
			t.Logf("%s: no answer, passing %q", p.what, got.Ports)
		}
		return
	}
	err := netlab.Poll(10*time.Second, func() error {
		got := w.Try(p.from, to)
		switch {
		case got.Err != nil:
			return got.Err
		case !strings.HasPrefix(got.Name, p.name) || p.seen != "" && got.Seen != p.seen || got.Ports != p.ports || got.Back != p.ports:
			return fmt.Errorf("%+v, want %s, seen from %q, passing %q both ways", got, p.name, p.seen, p.ports)
		}
		t.Logf("%s: %s saw %s, passing %q", p.what, got.Name, got.Seen, got.Ports)
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", p.what, err)
	}
}

// TestReach goes every way of the layout, in both families.
func TestReach(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		a.serveAll(t)
		web, _ := a.shop(t)
		ways := a.Watch()
		na, nb, podA := a.Nodes[0], a.Nodes[1], web[0].Net()
		vm := netlab.New(t)
		vm4, vm6 := a.Leg("vm-1", "external", a.Device.Adopt(t, "vm-1", vm), "eth0")
		Serve(t, vm, "vm")
		a.routesOfStrangers(t)

		for _, p := range []probe{
			{"no route yet: the cameras are sought on the Internet", podA, CameraHost, "", "", "port2"},
			{"no route yet, IPv6", podA, CameraHost6, "", "", "port2"},
		} {
			p.check(t, ways)
		}
		a.Declare("routes", camerasYAML)
		for _, p := range []probe{
			// R3, R4: within the cluster.
			{"pod to pod on the other node", podA, web[1].Addr.String(), "web-1", web[0].Addr.String(), ""},
			{"the same, IPv6", podA, web[1].Addr6.String(), "web-1", web[0].Addr6.String(), ""},
			{"pod to the ClusterIP", podA, "10.96.0.30", "web-", "", ""},
			{"the same, IPv6", podA, "fd00:10:96::30", "web-", "", ""},
			{"node to a pod on the other node", na.Net, web[1].Addr.String(), "web-1", "", ""},
			{"node to node", na.Net, nb.Internal.String(), "node-b", na.Internal.String(), ""},
			// R15, R3: from the external network.
			{"outside to the LoadBalancer address", a.Outside, "192.168.50.210", "web-", OutsideHost, "port3"},
			{"the same, IPv6", a.Outside, "fd00:50::210", "web-", OutsideHost6, "port3"},
			{"camera behind the gateway to it", a.Camera, "192.168.50.210", "web-", CameraHost, "port3"},
			{"the same, IPv6", a.Camera, "fd00:50::210", "web-", CameraHost6, "port3"},
			{"VM on the external switch to it", vm, "192.168.50.210", "web-", vm4.String(), ""},
			{"outside to a node", a.Outside, na.External.String(), "node-a", OutsideHost, "port3"},
			{"outside to the ClusterIP", a.Outside, "10.96.0.30", "", "", "port3"},
			{"the same, IPv6", a.Outside, "fd00:10:96::30", "", "", "port3"},
			{"outside to a pod", a.Outside, web[0].Addr.String(), "", "", "port3"},
			{"the same, IPv6", a.Outside, web[0].Addr6.String(), "", "", "port3"},
			// R19: from pods to the external network and behind it.
			{"pod to a machine outside", podA, OutsideHost, "outside", na.External.String(), "port3"},
			{"the same, IPv6", podA, OutsideHost6, "outside", na.External6.String(), "port3"},
			{"pod to a VM", podA, vm4.String(), "vm", na.External.String(), ""},
			{"the same, IPv6", podA, vm6.String(), "vm", na.External6.String(), ""},
			// R22: only what is for the cameras goes to the gateway.
			{"pod to a camera", podA, CameraHost, "camera", na.External.String(), "port3"},
			{"the same, IPv6", podA, CameraHost6, "camera", na.External6.String(), "port3"},
			{"node to a camera", nb.Net, CameraHost, "camera", nb.External.String(), "port3"},
			// R16: everything else goes by NAT through port 2.
			{"pod to the Internet", podA, InternetHost, "internet", "198.51.100.2", "port2"},
			{"the same, IPv6", podA, InternetHost6, "internet", "2001:db8:100::2", "port2"},
			{"node to the Internet", na.Net, InternetHost, "internet", "198.51.100.2", "port2"},
			{"the same, IPv6", na.Net, InternetHost6, "internet", "2001:db8:100::2", "port2"},
			{"the Internet to a node behind NAT", a.Internet, na.Internal.String(), "", "", "port2"},
			{"the same, IPv6", a.Internet, na.Internal6.String(), "", "", "port2"},
			{"the Internet to a pod", a.Internet, web[0].Addr.String(), "", "", "port2"},
		} {
			p.check(t, ways)
		}
	})
}

// routesOfStrangers gives those outside routes to what they must not reach, as
// somebody who means ill would set them.
func (a *Appliance) routesOfStrangers(t *testing.T) {
	for _, prefix := range []string{"10.96.0.0/16", "10.244.0.0/16"} {
		a.Outside.Route(t, prefix, a.Nodes[0].External, "eth0")
		a.Internet.Route(t, prefix, netip.MustParseAddr("198.51.100.2"), "eth0")
	}
	for _, prefix := range []string{"fd00:10:96::/112", "fd00:10:244::/48"} {
		a.Outside.Route(t, prefix, a.Nodes[0].External6, "eth0")
	}
	a.Internet.Route(t, "172.31.0.0/24", netip.MustParseAddr("198.51.100.2"), "eth0")
	a.Internet.Route(t, "fd00:31::/64", netip.MustParseAddr("2001:db8:100::2"), "eth0")
}
