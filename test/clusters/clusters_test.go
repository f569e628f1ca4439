// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/file"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

const (
	services = 4 // of each cluster
	nodes    = 2
	patience = 3 * time.Minute
)

const poolYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: shared}
spec: {use: LoadBalancer, ranges: [{first: 192.168.50.100, last: 192.168.50.115}, {first: "fd00:50::100", last: "fd00:50::10f"}]}
`

// cluster is one of the two.
type cluster struct {
	*site.Site
	name, dir          string
	number             int // tells its nodes' addresses from the other cluster's
	internal, external *netlab.Switch
	macs               map[[6]byte]bool // that its nodes have, or had
	controller         *netlab.Process
}

// raise raises a cluster with its nodes on the external switch.
func raise(t *testing.T, bin, name string, number int, external *netlab.Switch) *cluster {
	t.Helper()
	c := &cluster{name: name, dir: t.TempDir(), number: number, internal: netlab.NewSwitch(t), external: external, macs: map[[6]byte]bool{}}
	c.Site = site.New(t, bin, c.dir)
	gateway := netlab.New(t)
	c.internal.Join(t, gateway, "eth0")
	gateway.Addr(t, "eth0", "172.31.0.1/24")
	c.Declare("pools", poolYAML)
	for i := range nodes {
		c.boot(t, i)
	}
	for i := range services {
		c.Serve(site.Service{
			Name: fmt.Sprintf("s%d", i), ClusterIP: fmt.Sprintf("10.96.0.%d", 10+i), ClusterIP6: fmt.Sprintf("fd00:10:96::%d", 10+i),
			Port: 80, TargetPort: 8080, LoadBalancer: true,
		})
	}
	return c
}

// boot raises a node, also in place of one that was killed.
func (c *cluster) boot(t *testing.T, i int) {
	t.Helper()
	machine := netlab.StartNode(t, fmt.Sprintf("%s-%d", c.name, i))
	c.internal.Join(t, machine.Net, "eth0")
	c.external.Join(t, machine.Net, "eth1")
	at := func(format string, host int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, host)) }
	in4, in6 := at("172.31.0.%d", 10+i), at("fd00:31::%d", 10+i)
	out4, out6 := at("192.168.50.%d", 10*c.number+i), at("fd00:50::%d", 10*c.number+i)
	for nic, addrs := range map[string][2]netip.Addr{"eth0": {in4, in6}, "eth1": {out4, out6}} {
		machine.Net.Addr(t, nic, addrs[0].String()+"/24")
		machine.Net.Addr(t, nic, addrs[1].String()+"/64")
	}
	machine.Net.Route(t, "default", netip.MustParseAddr("172.31.0.1"), "eth0")
	c.macs[machine.Net.MAC(t, "eth1")] = true
	node := c.Enroll(machine, in4, out4, in6, out6)
	if i < len(c.Nodes)-1 {
		c.Nodes[i], c.Nodes = node, c.Nodes[:len(c.Nodes)-1]
	}
}

// serve declares further Services.
func (c *cluster) serve(names ...string) {
	for i, name := range names {
		n := 50 + 10*len(c.name) + i
		c.Serve(site.Service{
			Name: name, ClusterIP: fmt.Sprintf("10.96.0.%d", n), ClusterIP6: fmt.Sprintf("fd00:10:96::%d", n),
			Port: 80, TargetPort: 8080, LoadBalancer: true,
		})
	}
}

// start starts the cluster's controller, which stop ends.
func (c *cluster) start() { c.controller = c.Nodes[0].StartController() }

func (c *cluster) stop() { _ = c.controller.Stop(10 * time.Second) }

// look returns which Service has which addresses.
func (c *cluster) look(t *testing.T) (has map[netip.Addr]string, lacking []string, conflicted int) {
	t.Helper()
	has = map[netip.Addr]string{}
	c.read(t, func(obj source.Object) {
		switch obj := obj.(type) {
		case *corev1.Service:
			for _, in := range obj.Status.LoadBalancer.Ingress {
				has[netip.MustParseAddr(in.IP)] = obj.Name
			}
			if len(obj.Status.LoadBalancer.Ingress) < 2 {
				lacking = append(lacking, fmt.Sprintf("%s/%s: %+v", c.name, obj.Name, obj.Status.Conditions))
			}
		case *v1alpha1.IPAllocation:
			if obj.Spec.State == v1alpha1.AllocationConflicted {
				conflicted++
			}
		}
	}, source.KindService, source.KindIPAllocation)
	return has, lacking, conflicted
}

// read calls f with each object of some kinds, once.
func (c *cluster) read(t *testing.T, f func(source.Object), kinds ...source.Kind) {
	t.Helper()
	src, err := file.New(file.Options{Dir: filepath.Join(c.dir, "objects"), StatusDir: filepath.Join(c.dir, "status"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var once sync.Once
	err = src.Run(ctx, kinds, func(ev source.Event) {
		if ev.Op == source.Upsert {
			f(ev.Object)
		}
		if ev.Op == source.Synced {
			once.Do(cancel)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tail is the end of a cluster's logs.
func (c *cluster) tail() string {
	var b strings.Builder
	paths, _ := filepath.Glob(filepath.Join(c.Logs(), "*.log"))
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			fmt.Fprintf(&b, "--- %s %s\n%s", c.name, filepath.Base(path), text[max(0, len(text)-3000):])
		}
	}
	return b.String()
}

// TestTwoClusters: every Service of both gets its addresses, and none is ever
// both clusters': neither in a status nor on the wire.
func TestTwoClusters(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		bin := t.TempDir()
		site.Build(t, bin)
		external, outside := netlab.NewSwitch(t), netlab.New(t)
		external.Join(t, outside, "eth0")
		outside.Addr(t, "eth0", "192.168.50.50/24")
		outside.Addr(t, "eth0", "fd00:50::50/64")
		wire := netlab.NewCapture(t, outside, "eth0")
		both := []*cluster{raise(t, bin, "left", 1, external), raise(t, bin, "right", 2, external)}
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(both[0].tail() + both[1].tail())
			}
		})
		for _, c := range both {
			c.Nodes[0].WaitReady()
			c.Nodes[1].WaitReady()
		}
		began := time.Now()
		for _, c := range both {
			c.start()
		}
		settle(t, both)
		t.Logf("settled after %s", time.Since(began))
		checkWire(t, wire, both, 2*services*2)
		checkAnswers(t, outside, both)
		checkWithoutControllers(t, outside, both)
		checkReboot(t, outside, both)
		checkClaims(t, outside, both[0])
		checkWish(t, both)
		checkWire(t, wire, both, 2*(services+1)*2)
	})
}

// settle waits until all Services have their addresses, and sees to it that none
// is ever in two statuses.
func settle(t *testing.T, both []*cluster) {
	t.Helper()
	netlab.WaitFor(t, patience, "addresses for all Services", func() error {
		left, lacking, _ := both[0].look(t)
		right, more, _ := both[1].look(t)
		for addr, svc := range left {
			if other, ok := right[addr]; ok {
				t.Fatalf("%s is that of left/%s and of right/%s", addr, svc, other)
			}
		}
		if lacking = append(lacking, more...); len(lacking) > 0 {
			return fmt.Errorf("without: %v", lacking)
		}
		return nil
	})
}

// checkWithoutControllers has both clusters without controllers for a while, in
// which agents are killed and Services come; then both go on at a time.
func checkWithoutControllers(t *testing.T, outside *netlab.Namespace, both []*cluster) {
	t.Helper()
	before := kept(t, both)
	for i, c := range both {
		c.stop()
		c.serve("later")
		agent := c.Nodes[i].Agent()
		_ = agent.Signal(syscall.SIGKILL)
		<-agent.Done()
		c.Nodes[i].StartAgent()
	}
	checkAnswers(t, outside, both)
	for _, c := range both {
		c.start()
	}
	settle(t, both)
	checkKept(t, both, before)
	checkAnswers(t, outside, both)
}

// checkReboot cuts the power of the node of one cluster that runs its controller,
// and raises it again, amid the work of the other's.
func checkReboot(t *testing.T, outside *netlab.Namespace, both []*cluster) {
	t.Helper()
	before := kept(t, both)
	both[0].Nodes[0].Kill()
	checkAnswers(t, outside, both)
	both[0].boot(t, 0)
	both[0].Nodes[0].WaitReady()
	both[0].start()
	settle(t, both)
	checkKept(t, both, before)
	checkAnswers(t, outside, both)
}

// kept is what each cluster's Services have.
func kept(t *testing.T, both []*cluster) (list []map[netip.Addr]string) {
	t.Helper()
	for _, c := range both {
		has, _, _ := c.look(t)
		list = append(list, has)
	}
	return list
}

// checkKept requires that no Service lost an address.
func checkKept(t *testing.T, both []*cluster, before []map[netip.Addr]string) {
	t.Helper()
	for i, now := range kept(t, both) {
		for addr, svc := range before[i] {
			if now[addr] != svc {
				t.Errorf("want %s of %s/%s kept, got %q there", addr, both[i].name, svc, now[addr])
			}
		}
	}
}

// checkClaims has a third machine claim an address of each family, and requires
// that the cluster notices it within a second and shows it.
func checkClaims(t *testing.T, outside *netlab.Namespace, c *cluster) {
	t.Helper()
	has, _, _ := c.look(t)
	for _, is4 := range []bool{true, false} {
		for addr := range has {
			if addr.Is4() != is4 {
				continue
			}
			began := time.Now()
			claim(t, outside, addr)
			netlab.WaitFor(t, 5*time.Second, "the claim of "+addr.String()+" in a node's report", func() error { return c.shows(t, addr) })
			reported := time.Since(began)
			noticed := c.noticed(t, addr).Sub(began)
			t.Logf("claim of %s noticed after %s, reported after %s", addr, noticed, reported)
			if noticed > time.Second {
				t.Errorf("want the claim of %s noticed within a second", addr)
			}
			break
		}
	}
}

// noticed is when a node's log first has that another machine claims an address.
func (c *cluster) noticed(t *testing.T, addr netip.Addr) time.Time {
	t.Helper()
	for _, n := range c.Nodes {
		text, err := os.ReadFile(filepath.Join(c.Logs(), n.Name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, `msg="another machine claims an address of ours" address=`+addr.String()+" ") {
				continue
			}
			stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			at, err := time.Parse(time.RFC3339, stamp)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
	}
	t.Fatalf("no log has that %s is claimed", addr)
	return time.Time{}
}

// checkWish has both clusters ask for the same address: one gets it, the other
// waits and says why.
func checkWish(t *testing.T, both []*cluster) {
	t.Helper()
	addr := netip.MustParseAddr("192.168.50.115")
	for _, c := range both {
		c.Serve(site.Service{Name: "wanted", ClusterIP: "10.96.0.99", Port: 80, TargetPort: 8080, LoadBalancer: true, Addresses: []netip.Addr{addr}})
	}
	netlab.WaitFor(t, patience, "one cluster with the wanted address", func() error {
		var has, waits []string
		for _, c := range both {
			c.read(t, func(obj source.Object) {
				svc, ok := obj.(*corev1.Service)
				if !ok || svc.Name != "wanted" {
					return
				}
				for range svc.Status.LoadBalancer.Ingress {
					has = append(has, c.name)
				}
				for _, condition := range svc.Status.Conditions {
					if condition.Reason == "AddressConflict" && strings.Contains(condition.Message, "seen by node "+c.name) {
						waits = append(waits, c.name)
						t.Log(condition.Message)
					}
				}
			}, source.KindService)
		}
		if len(has) > 1 {
			t.Fatalf("both have %s", addr)
		}
		if len(has) != 1 || len(waits) != 1 {
			return fmt.Errorf("%v has it, %v waits", has, waits)
		}
		return nil
	})
}

// claim says that an address is the namespace's.
func claim(t *testing.T, ns *netlab.Namespace, addr netip.Addr) {
	t.Helper()
	mac := ns.MAC(t, "eth0")
	err := ns.Do(func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err := packet.Listen(nic, packet.Raw, 0, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, f := range frame.Announcements(addr, mac) {
			if _, err := conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// shows returns an error unless a node reports a conflict for an address.
func (c *cluster) shows(t *testing.T, addr netip.Addr) error {
	t.Helper()
	found := errors.New("no node reports it")
	c.read(t, func(obj source.Object) {
		if state, ok := obj.(*v1alpha1.NodeNetworkState); ok {
			for _, conflict := range state.Status.Conflicts {
				if conflict.Address == addr.String() {
					found = nil
				}
			}
		}
	}, source.KindNodeNetworkState)
	return found
}

// checkWire requires that on the wire no address of the range was claimed by
// both clusters, and that at least so many were by one.
func checkWire(t *testing.T, wire *netlab.Capture, both []*cluster, least int) {
	t.Helper()
	by := map[netip.Addr][]string{}
	probes := 0
	for _, f := range wire.Frames() {
		s, ok := frame.Parse(f.Data)
		if !ok || !inRange(s.Addr) {
			continue
		}
		if s.Probe {
			probes++
			continue
		}
		for _, c := range both {
			if c.macs[s.MAC] && !slices.Contains(by[s.Addr], c.name) {
				by[s.Addr] = append(by[s.Addr], c.name)
			}
		}
	}
	for addr, names := range by {
		if len(names) > 1 {
			t.Errorf("%s was claimed by %v", addr, names)
		}
	}
	if len(by) < least || probes < 3*least {
		t.Errorf("want %d addresses claimed and %d probes at least, got %d and %d", least, 3*least, len(by), probes)
	}
}

// checkAnswers requires that one who asks is answered for every address by its
// own cluster.
func checkAnswers(t *testing.T, outside *netlab.Namespace, both []*cluster) {
	t.Helper()
	for i, c := range both {
		has, _, conflicted := c.look(t)
		t.Logf("%s: %d addresses, %d conflicted", c.name, len(has), conflicted)
		for addr := range has {
			netlab.WaitFor(t, 30*time.Second, "an answer for "+addr.String(), func() error {
				outside.Exec(t, "ip", "neigh", "flush", "dev", "eth0")
				_, _ = outside.TryExec("ping", "-c1", "-W1", addr.String())
				out := outside.Exec(t, "ip", "neigh", "show", addr.String())
				for mac := range c.macs {
					if strings.Contains(out, text(mac)) {
						return nil
					}
				}
				for mac := range both[1-i].macs {
					if strings.Contains(out, text(mac)) {
						t.Fatalf("%s of %s is answered by the other cluster", addr, c.name)
					}
				}
				return fmt.Errorf("neighbour: %q", out)
			})
		}
	}
}

func inRange(addr netip.Addr) bool {
	first4, last4 := netip.MustParseAddr("192.168.50.100"), netip.MustParseAddr("192.168.50.115")
	first6, last6 := netip.MustParseAddr("fd00:50::100"), netip.MustParseAddr("fd00:50::10f")
	return !addr.Less(first4) && !last4.Less(addr) || !addr.Less(first6) && !last6.Less(addr)
}

func text(mac [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}
