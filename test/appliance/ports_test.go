// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// TestPorts: NodePorts and pods' host ports are open on the internal NIC, elsewhere
// where that was chosen, and never at a LoadBalancer address.
func TestPorts(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		na, nb := a.Nodes[0], a.Nodes[1]
		onAll := na.StartPodWithPorts("all-0", `[{"hostPort":8090,"containerPort":8080,"protocol":"tcp"}]`, "sleep", "infinity")
		onOne := nb.StartPodWithPorts("one-0", fmt.Sprintf(`[{"hostPort":8091,"containerPort":8080,"protocol":"tcp","hostIP":"%s"},
			{"hostPort":8091,"containerPort":8080,"protocol":"tcp","hostIP":"%s"}]`, nb.External, nb.External6), "sleep", "infinity")
		for _, p := range []*site.Pod{onAll, onOne} {
			Serve(t, p.Net(), p.Name)
		}
		lb := []netip.Addr{netip.MustParseAddr("192.168.50.210"), netip.MustParseAddr("fd00:50::210")}
		closed := site.Service{Name: "closed", ClusterIP: "10.96.0.30", ClusterIP6: "fd00:10:96::30", Port: ServerPort, TargetPort: ServerPort,
			NodePort: 30080, LoadBalancer: true, Addresses: lb}
		chosen := site.Service{Name: "chosen", ClusterIP: "10.96.0.31", ClusterIP6: "fd00:10:96::31", Port: ServerPort, TargetPort: ServerPort,
			NodePort: 30081, NodePortNICs: "internal,external"}
		a.Serve(closed, onAll, onOne)
		a.Serve(chosen, onAll, onOne)
		a.LoadBalancerIP(closed)
		ways := a.Watch()
		check := func(what string, from *netlab.Namespace, four, six netip.Addr, port uint16, name, ports string) {
			t.Helper()
			for _, to := range []netip.Addr{four, six} {
				probe{what, from, netip.AddrPortFrom(to, port).String(), name, "", ports}.check(t, ways)
			}
		}
		const refused, either = "", "-0"
		check("outside to the Service", a.Outside, lb[0], lb[1], ServerPort, either, "port3")
		for _, node := range []*site.Node{na, nb} {
			check("the internal network to a NodePort", a.Device.Net, node.Internal, node.Internal6, 30080, either, "")
			check("the internal network to a chosen one", a.Device.Net, node.Internal, node.Internal6, 30081, either, "")
			check("a pod to a NodePort", onAll.Net(), node.Internal, node.Internal6, 30080, either, "")
			check("outside to a NodePort", a.Outside, node.External, node.External6, 30080, refused, "port3")
			check("outside to a chosen one", a.Outside, node.External, node.External6, 30081, either, "port3")
		}
		check("the internal network to a host port", a.Device.Net, na.Internal, na.Internal6, 8090, "all-0", "")
		check("outside to a host port", a.Outside, na.External, na.External6, 8090, refused, "port3")
		check("outside to a host port of that address", a.Outside, nb.External, nb.External6, 8091, "one-0", "port3")
		check("the internal network to a host port of another address", a.Device.Net, nb.Internal, nb.Internal6, 8091, refused, "")
		for _, port := range []uint16{30080, 30081, 8090, 8091} {
			check("outside to the LoadBalancer address", a.Outside, lb[0], lb[1], port, refused, "port3")
			check("a pod to the LoadBalancer address", onAll.Net(), lb[0], lb[1], port, refused, "")
		}
		for _, n := range a.Nodes {
			a.configure(t, n, "services: {nodePortNICs: [internal, external]}\n")
		}
		check("outside to a NodePort, opened", a.Outside, na.External, na.External6, 30080, either, "port3")
		check("outside to a host port, opened", a.Outside, na.External, na.External6, 8090, "all-0", "port3")
		check("outside to the LoadBalancer address", a.Outside, lb[0], lb[1], 30080, refused, "port3")
	})
}
