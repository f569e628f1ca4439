// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

func TestMain(m *testing.M) { os.Exit(site.WithPrograms(m.Run)) }

// raise raises the layout.
func raise(t *testing.T) *Appliance {
	t.Helper()
	a := New(t, os.Getenv(site.BinEnv), t.TempDir())
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
	to   string // an address, with a port if it isn't ServerPort
	// name is who answers, empty if nobody must; seen the address it must see.
	name, seen string
	// ports are those of the device that the first packet passes.
	ports string
}

// check tries a probe until it comes out as it must; what must not be reached is tried once.
func (p probe) check(t *testing.T, w *Ways) {
	t.Helper()
	to, err := netip.ParseAddrPort(p.to)
	if err != nil {
		to = netip.AddrPortFrom(netip.MustParseAddr(p.to), ServerPort)
	}
	if p.name == "" {
		got := w.Try(p.from, to)
		_ = netlab.Poll(patience, func() error { // a refusal may be here before the capture
			if got.Ports = w.passed(got.client, 0, 0x02); got.Ports != p.ports {
				return errors.New("passed elsewhere")
			}
			return nil
		})
		if got.Err == nil || got.Ports != p.ports {
			t.Errorf("%s: %+v, want no answer, passing %q", p.what, got, p.ports)
		} else {
			t.Logf("%s: no answer, passing %q", p.what, got.Ports)
		}
		return
	}
	err = netlab.Poll(10*time.Second, func() error {
		got := w.Try(p.from, to)
		switch {
		case got.Err != nil:
			return got.Err
		case !strings.Contains(got.Name, p.name) || p.seen != "" && got.Seen != p.seen || got.Ports != p.ports || got.Back != p.ports:
			return fmt.Errorf("%+v, want %s, seen from %q, passing %q both ways", got, p.name, p.seen, p.ports)
		}
		t.Logf("%s: %s saw %s, passing %q", p.what, got.Name, got.Seen, got.Ports)
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", p.what, err)
	}
}
