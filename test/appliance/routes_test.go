// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// TestRoutes gives the nodes the route to the cameras by hand and by object, and
// takes it away in every way that there is.
func TestRoutes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		a.serveAll(t)
		ways := a.Watch()
		na := a.Nodes[0]
		camera := func(what string) {
			t.Helper()
			for _, n := range a.Nodes {
				probe{what + ": " + n.Name + " to a camera", n.Net, CameraHost, "camera", n.External.String(), "port3"}.check(t, ways)
			}
		}

		t.Run("refused", func(t *testing.T) { a.refusals(t) })
		t.Run("refused as objects", func(t *testing.T) { a.badObjects(t) })
		t.Run("reference", func(t *testing.T) { a.reference(t) })
		t.Run("IPv6", func(t *testing.T) { a.six(t, ways) })
		t.Run("without agent", func(t *testing.T) { a.withoutAgent(t, na) })
		a.mustCtl(t, na.Node, "routes", "add", "eth1", CameraNet, "--next-hop", GatewayHost, "--metric", "100")
		camera("by hand, on one node")
		a.wantFates(t, "Applied", "node-a", "node-b")
		t.Run("only custom ones", func(t *testing.T) {
			for _, n := range a.Nodes {
				if got := a.routes(t, n, "routes", "get"); len(got) != 1 || got[0].Destination.String() != CameraNet || got[0].State != "Applied" {
					t.Errorf("%s has %+v", n.Name, got)
				}
				if got := a.routes(t, n, "route", "get", "eth1"); len(got) != 1 {
					t.Errorf("%s eth1 has %+v", n.Name, got)
				}
			}
		})
		t.Run("foreign removal", func(t *testing.T) {
			na.Net.Exec(t, "ip", "route", "flush", "proto", "81")
			a.awaitRoute(t, na, time.Second)
		})
		t.Run("interface flap", func(t *testing.T) {
			na.Net.Exec(t, "ip", "link", "set", "eth1", "down")
			na.Net.Exec(t, "ip", "link", "set", "eth1", "up")
			a.awaitRoute(t, na, time.Second)
		})
		camera("after removal and flap")

		nb := a.reboot(t, 1)
		a.awaitRoute(t, nb, 5*time.Second)
		camera("after a reboot")

		for _, n := range a.Nodes { // no agent: the kernel keeps it; a new one finds it
			n.Agent().Signal(9)
			_ = n.Agent().Wait()
			n.StartAgent()
			netlab.WaitFor(t, 10*time.Second, "the new agent of "+n.Name, func() error { _, err := a.Ctl(n.Node, "status"); return err })
		}
		camera("after new agents")

		a.mustCtl(t, nb.Node, "routes", "remove", "eth1", CameraNet)
		for _, n := range a.Nodes {
			netlab.WaitFor(t, 5*time.Second, "the route's end on "+n.Name, func() error {
				if got := n.Net.Exec(t, "ip", "route", "show", "proto", "81"); got != "" {
					return fmt.Errorf("left: %s", got)
				}
				return nil
			})
		}
		a.Declare("routes", camerasYAML)
		camera("by object")
		if out, err := a.Ctl(na.Node, "routes", "remove", "eth1", CameraNet); err == nil || !strings.Contains(out, "remove it from the folder of objects") {
			t.Errorf("remove what is an object of the operator's: %v: %s", err, out)
		}
	})
}

// refusals tries what can't be; nothing may change.
func (a *Appliance) refusals(t *testing.T) {
	n := a.Nodes[0]
	a.mustCtl(t, n.Node, "routes", "add", "eth1", "10.70.0.0/16", "--next-hop", GatewayHost, "--this-node")
	n.Net.Exec(t, "ip", "addr", "change", n.Internal.String()+"/24", "dev", "eth0", "valid_lft", "3600", "preferred_lft", "3600")
	state := func() string {
		out := n.Net.Exec(t, "sh", "-c", "ip route show table all; ip -6 route show table all")
		db, err := os.ReadFile(n.Path("/var/lib/patchbay/routes.db"))
		if err != nil {
			t.Fatal(err)
		}
		return out + string(db)
	}
	before, since := state(), time.Now() // the node has just begun
	netlab.WaitFor(t, 10*time.Second, "the node's rest", func() error {
		if now := state(); now != before {
			before, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return errors.New("its routes still change")
		}
		return nil
	})
	for _, tt := range []struct{ what, args, want string }{
		{"dynamic address", "eth0 10.71.0.0/16 --next-hop 172.31.0.1", "eth0 has a dynamic IPv4 address (DHCP)"},
		{"next hop off the link", "eth1 10.71.0.0/16 --next-hop 10.9.9.9", "next hop 10.9.9.9 is not on the link: eth1 has 192.168.50.10/24"},
		{"host bits", "eth1 10.71.0.1/16 --next-hop 192.168.50.254", "10.71.0.1/16 has host bits: write 10.71.0.0/16"},
		{"another metric", "eth1 10.70.0.0/16 --next-hop 192.168.50.254 --metric 50", "10.70.0.0/16 is routed over eth1 already, with metric 100: one destination has one custom route per interface"},
		{"default route", "eth1 0.0.0.0/0 --next-hop 192.168.50.254", "0.0.0.0/0 is the default route, which stays the system's"},
		{"default route IPv6", "eth1 ::/0 --next-hop fd00:50::fe", "::/0 is the default route"},
		{"no interface", "Port9 10.71.0.0/16 --next-hop 192.168.50.254", "no interface Port9 on this node"},
		{"pods' range", "eth1 10.244.4.0/22 --next-hop 192.168.50.254", "in the cluster's own range 10.244.0.0/16"},
		{"two families", "eth1 10.71.0.0/16 --next-hop fd00:50::fe", "must be of the family"},
	} {
		out, err := a.Ctl(n.Node, append([]string{"routes", "add"}, strings.Fields(tt.args)...)...)
		if err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v: %s, want %q", tt.what, err, out, tt.want)
		}
	}
	if after := state(); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	if out, err := a.Ctl(a.Device, "routes", "add", "port3", "10.71.0.0/16", "--next-hop", GatewayHost); err == nil || !strings.Contains(out, "device's host") {
		t.Errorf("on the device's host: %v: %s", err, out)
	}
	n.Net.Exec(t, "ip", "addr", "change", n.Internal.String()+"/24", "dev", "eth0", "valid_lft", "forever", "preferred_lft", "forever")
	a.mustCtl(t, n.Node, "routes", "remove", "eth1", "10.70.0.0/16")
}

// mustCtl is Ctl for what must succeed.
func (a *Appliance) mustCtl(t *testing.T, machine *netlab.Node, args ...string) string {
	t.Helper()
	out, err := a.Ctl(machine, args...)
	if err != nil {
		t.Fatalf("patchbayctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// routes is what patchbayctl lists.
func (a *Appliance) routes(t *testing.T, n *site.Node, args ...string) (list []agentapi.Route) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.mustCtl(t, n.Node, append(args, "-o", "json")...)), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// awaitRoute waits until a node's kernel has the route to the cameras.
func (a *Appliance) awaitRoute(t *testing.T, n *site.Node, patience time.Duration) {
	t.Helper()
	began := time.Now()
	netlab.WaitFor(t, patience, "the route to the cameras on "+n.Name, func() error {
		if got := n.Net.Exec(t, "ip", "route"); !strings.Contains(got, CameraNet+" via "+GatewayHost) {
			return fmt.Errorf("routes are %s", got)
		}
		return nil
	})
	t.Logf("%s: the route after %v", n.Name, time.Since(began).Round(time.Millisecond))
}

// wantFates waits until the NodeRoute's status says this of these nodes.
func (a *Appliance) wantFates(t *testing.T, state v1alpha1.RouteState, nodes ...string) {
	t.Helper()
	netlab.WaitFor(t, 15*time.Second, "the status of the NodeRoute", func() error {
		files, err := filepath.Glob(filepath.Join(a.dir, "status", "noderoute_*_status.yaml"))
		if err != nil || len(files) != 1 {
			return fmt.Errorf("files %v: %w", files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		var route v1alpha1.NodeRoute
		if err := yaml.Unmarshal(text, &route); err != nil {
			return err
		}
		var got []string
		for _, n := range route.Status.Nodes {
			if n.State == state {
				got = append(got, n.Node)
			}
		}
		if !slices.Equal(got, nodes) {
			return fmt.Errorf("status %+v", route.Status)
		}
		return nil
	})
}

// reboot ends a node as a power cut does and raises it again with what was on its
// disk: the same legs, the state folder, nothing else.
func (a *Appliance) reboot(t *testing.T, i int) *site.Node {
	t.Helper()
	old := a.Nodes[i]
	disk := filepath.Join(t.TempDir(), "disk.tar")
	old.Exec(t, "tar", "-C", "/var/lib/patchbay", "-cf", disk, ".")
	old.Kill()
	for _, nic := range []string{"eth0", "eth1"} { // the namespace itself is held by this test
		old.Net.Exec(t, "ip", "link", "del", nic)
	}
	a.Device.Exec(t, "umount", "/run/netns/"+old.Name)
	machine := netlab.StartNode(t, old.Name)
	machine.Exec(t, "tar", "-C", "/var/lib/patchbay", "-xf", disk)
	a.Nodes = slices.Delete(a.Nodes, i, i+1)
	n := a.raiseNode(machine)
	if n.External != old.External || n.Internal != old.Internal {
		t.Errorf("%s came back with %s and %s, was %s and %s", n.Name, n.Internal, n.External, old.Internal, old.External)
	}
	n.WaitReady()
	Serve(t, n.Net, n.Name)
	return n
}

// TestRouteBeforeTheCluster: a route that is added while there is no agent yet is
// in force at once and is all nodes' when there is a cluster.
func TestRouteBeforeTheCluster(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		Serve(t, a.Camera, "camera")
		ways := a.Watch()
		machine := netlab.StartNode(t, "node-c")
		netns := a.Device.Adopt(t, "node-c", machine.Net)
		internal, internal6 := a.Leg("node-c", "internal", netns, "eth0")
		external, external6 := a.Leg("node-c", "external", netns, "eth1")
		a.mustCtl(t, machine, "routes", "add", "eth1", CameraNet, "--next-hop", GatewayHost)
		probe{"no agent", machine.Net, CameraHost, "camera", external.String(), "port3"}.check(t, ways)
		if out := a.mustCtl(t, machine, "routes", "get", "eth1"); !strings.Contains(out, "Applied") {
			t.Errorf("routes: %s", out)
		}
		a.Enroll(machine, internal, external, internal6, external6)
		for _, n := range a.Nodes {
			probe{n.Name, n.Net, CameraHost, "camera", n.External.String(), "port3"}.check(t, ways)
		}
		a.wantFates(t, "Applied", "node-a", "node-b", "node-c")
	})
}
