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

// chapter is something that an operator does while connections are held.
type chapter struct {
	what string
	do   func(t *testing.T)
}

// TestDiary does what happens to a site over the years within a minute. One
// connection a direction is held all along, and lives.
func TestDiary(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		a.serveAll(t)
		web, service := a.shop(t)
		a.Declare("routes", camerasYAML)
		a.Gateway.Addr(t, "lo", InternetHost+"/32") // the Internet has another entrance
		ways := a.Watch()
		held := a.holdAll(t, web)
		internet := func(t *testing.T, name, seen, port string) {
			t.Helper()
			probe{"pod to the Internet", web[0].Net(), InternetHost, name, seen, port}.check(t, ways)
		}
		for _, c := range []chapter{
			{"add a pool, move a Service to it", func(t *testing.T) {
				a.Declare("pools-more", strings.ReplaceAll(morePoolYAML, "DISABLED", "false"))
				more := site.Service{Name: "more", ClusterIP: "10.96.0.31", Port: ServerPort, TargetPort: ServerPort, LoadBalancer: true,
					Addresses: []netip.Addr{netip.MustParseAddr("192.168.50.230")}}
				a.Serve(more, web[0], web[1])
				probe{"outside to the new pool's address", a.Outside, "192.168.50.230", "web-", OutsideHost, "port3"}.check(t, ways)
			}},
			{"drain the pool", func(t *testing.T) {
				a.Declare("pools-more", strings.ReplaceAll(morePoolYAML, "DISABLED", "true"))
				probe{"outside to an address given before", a.Outside, "192.168.50.230", "web-", OutsideHost, "port3"}.check(t, ways)
			}},
			{"move the default route to port 3", func(t *testing.T) {
				internet(t, "internet", "198.51.100.2", "port2")
				a.Device.Net.Exec(t, "ip", "route", "replace", "default", "via", GatewayHost, "dev", "pb-ext")
				internet(t, "gateway", "192.168.50.1", "port3")
			}},
			{"and back", func(t *testing.T) {
				a.Device.Net.Exec(t, "ip", "route", "replace", "default", "via", "198.51.100.1", "dev", "port2")
				internet(t, "internet", "198.51.100.2", "port2")
			}},
			{"disable compute on port 3", func(t *testing.T) {
				a.Declare("switches", strings.SplitAfter(switchesYAML, "---\n")[0])
				a.awaitPort(t, "192.168.50.1/24", "port3")
			}},
			{"enable it again", func(t *testing.T) {
				a.Declare("switches", switchesYAML)
				a.awaitPort(t, "192.168.50.1/24", "pb-ext")
				probe{"outside to the Service", a.Outside, service.Addresses[0].String(), "web-", OutsideHost, "port3"}.check(t, ways)
			}},
			{"re-address a node", func(t *testing.T) { a.readdress(t, web, ways) }},
			{"new agents", func(t *testing.T) {
				for _, n := range a.Nodes {
					n.Agent().Signal(9)
					_ = n.Agent().Wait()
					n.StartAgent()
				}
				probe{"pod to a camera", web[0].Net(), CameraHost, "camera", a.Nodes[0].External.String(), "port3"}.check(t, ways)
			}},
		} {
			began := time.Now()
			c.do(t)
			t.Logf("%s: %v", c.what, time.Since(began).Round(time.Millisecond))
		}
		for _, h := range held {
			gap, err := h.End()
			t.Logf("%s: longest silence %v", h.What, gap.Round(time.Millisecond))
			if err != nil {
				t.Errorf("%s: %v", h.What, err)
			}
		}
	})
}

const morePoolYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: more}
spec: {use: LoadBalancer, disabled: DISABLED, ranges: [{first: 192.168.50.230, last: 192.168.50.239}]}
`

// holdAll holds a connection in each direction that outlives the diary.
func (a *Appliance) holdAll(t *testing.T, web [2]*site.Pod) []*Held {
	to := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), ServerPort) }
	pod := web[0].Net()
	return []*Held{
		Hold(t, "pod to pod on the other node", pod, to(web[1].Addr.String())),
		Hold(t, "the same, IPv6", pod, to(web[1].Addr6.String())),
		Hold(t, "outside to the LoadBalancer address", a.Outside, to("192.168.50.210")),
		Hold(t, "the same, IPv6", a.Outside, to("fd00:50::210")),
		Hold(t, "camera to the LoadBalancer address", a.Camera, to("192.168.50.210")),
		Hold(t, "pod to a machine outside", pod, to(OutsideHost)),
		Hold(t, "the same, IPv6", pod, to(OutsideHost6)),
		Hold(t, "pod to a camera", pod, to(CameraHost)),
		Hold(t, "the same, IPv6", pod, to(CameraHost6)),
		Hold(t, "node to a machine outside", a.Nodes[0].Net, to(OutsideHost)),
	}
}

// awaitPort waits until an address of the device's is on that interface.
func (a *Appliance) awaitPort(t *testing.T, address, name string) {
	t.Helper()
	netlab.WaitFor(t, 10*time.Second, address+" on "+name, func() error {
		if got := a.Device.Net.Exec(t, "ip", "-o", "addr"); !strings.Contains(got, name+"    inet "+address) {
			return fmt.Errorf("addresses: %s", got)
		}
		return nil
	})
}

// readdress gives the second node another InternalIP, as its owner would: on the
// NIC first, then at the cluster.
func (a *Appliance) readdress(t *testing.T, web [2]*site.Pod, ways *Ways) {
	n := a.Nodes[1]
	was, is := n.Internal.String(), "172.31.0.99"
	n.Net.Sysctl(t, "net/ipv4/conf/eth0/promote_secondaries", "1")
	n.Net.Sysctl(t, "net/ipv4/conf/eth1/promote_secondaries", "1")
	n.Net.Exec(t, "ip", "addr", "add", is+"/24", "dev", "eth0")
	n.Net.Exec(t, "ip", "addr", "del", was+"/24", "dev", "eth0")
	n.Net.Exec(t, "ip", "route", "replace", "default", "via", "172.31.0.1", "dev", "eth0")
	a.Declare("node-"+n.Name, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s, labels: {kubernetes.io/hostname: %s}}
spec: {podCIDR: "10.244.4.0/22", podCIDRs: ["10.244.4.0/22", "fd00:10:244:1::/64"]}
status:
  addresses: [{type: InternalIP, address: "%s"}, {type: InternalIP, address: "%s"}, {type: Hostname, address: %s}]
  conditions: [{type: Ready, status: "True"}]
`, n.Name, n.Name, is, n.Internal6, n.Name))
	n.Internal = netip.MustParseAddr(is)
	probe{"pod to the pod on that node", web[0].Net(), web[1].Addr.String(), "web-1", web[0].Addr.String(), ""}.check(t, ways)
	probe{"and back", web[1].Net(), web[0].Addr.String(), "web-0", web[1].Addr.String(), ""}.check(t, ways)
	probe{"a pod there to the Internet", web[1].Net(), InternetHost, "internet", "198.51.100.2", "port2"}.check(t, ways)

	n.Net.Exec(t, "ip", "addr", "add", "192.168.50.99/24", "dev", "eth1")
	n.Net.Exec(t, "ip", "addr", "del", n.External.String()+"/24", "dev", "eth1")
	n.External = netip.MustParseAddr("192.168.50.99")
	probe{"a pod there to a machine outside", web[1].Net(), OutsideHost, "outside", "192.168.50.99", "port3"}.check(t, ways)
	probe{"a pod there to a camera", web[1].Net(), CameraHost, "camera", "192.168.50.99", "port3"}.check(t, ways)
}
