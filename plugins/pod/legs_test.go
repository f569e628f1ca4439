// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// newLegLab is a node with an external switch, a camera on it, and an agent that
// gives every pod a leg.
func newLegLab(t *testing.T) (l *lab, camera *netlab.Namespace) {
	l = newLab(t)
	l.Node.Exec(t, "ip", "link", "add", "pb-ext", "type", "bridge", "mcast_snooping", "0")
	l.Node.Exec(t, "ip", "link", "set", "pb-ext", "up")
	camera = netlab.New(t)
	netlab.Wire(t, l.Node, "port3", camera, "eth0")
	l.Node.Exec(t, "ip", "link", "set", "port3", "master", "pb-ext")
	camera.Addr(t, "eth0", "192.0.2.2/24")
	network := netip.MustParsePrefix("192.0.2.0/24")
	l.agent.plan = &agentapi.PodPlan{
		Pools: []agentapi.AddressPool{{Name: "fixed", Subnets: []agentapi.Subnet{{Prefix: netip.MustParsePrefix("10.9.0.0/24")}}}},
		Legs: []agentapi.Leg{{IfName: "net1", Bridge: "pb-ext", Pools: []agentapi.AddressPool{{Name: "cameras", Subnets: []agentapi.Subnet{
			{Prefix: network, First: netip.MustParseAddr("192.0.2.2"), Last: netip.MustParseAddr("192.0.2.2")}, // the camera's
			{Prefix: network, First: netip.MustParseAddr("192.0.2.10"), Last: netip.MustParseAddr("192.0.2.11")},
		}}}}},
	}
	return l, camera
}

func (l *lab) noLegs(t *testing.T) {
	t.Helper()
	if out := l.Node.Exec(t, "ip", "-o", "link"); strings.Contains(out, ": pbs") {
		t.Errorf("legs left: %s", out)
	}
}

func TestLeg(t *testing.T) {
	l, camera := newLegLab(t)
	pod := netlab.New(t)
	conf := cnilab.Attachment("c1", pod)
	result, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	var ips []string
	for _, ip := range result.IPs {
		ips = append(ips, result.Interfaces[*ip.Interface].Name+" "+ip.Address.String())
	}
	if got := strings.Join(ips, ", "); got != "eth0 10.9.0.1/32, net1 192.0.2.10/24" {
		t.Errorf("addresses %s, want the planned ones, the camera's not among them", got)
	}
	pod.Exec(t, "ping", "-c1", "-W2", "192.0.2.2")
	camera.Exec(t, "ping", "-c1", "-W2", "192.0.2.10")
	if route := pod.Exec(t, "ip", "route", "get", "198.51.100.1"); !strings.Contains(route, "dev eth0") {
		t.Errorf("the way outside leads over the leg: %s", route)
	}
	if err := l.Check(t.Context(), conf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := l.GC(t.Context(), "c1"); err != nil {
		t.Errorf("GC: %v", err)
	}
	camera.Exec(t, "ping", "-c1", "-W2", "192.0.2.10")
	pod.Exec(t, "ip", "addr", "del", "192.0.2.10/24", "dev", "net1")
	if err := l.Check(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "192.0.2.10") {
		t.Errorf("CHECK of a leg without its address: %v", err)
	}
	for range 2 {
		if err := l.Del(t.Context(), conf); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	l.noLegs(t)
	l.checkClean(t)
}

// TestLegUndone fails behind the legs: nothing of them is left.
func TestLegUndone(t *testing.T) {
	l, _ := newLegLab(t)
	l.agent.refuse = agentapi.Errorf(agentapi.CodeTryLater, "not now")
	pod := netlab.New(t)
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", pod)); code(err) != agentapi.CodeTryLater {
		t.Errorf("ADD: %v, want to try later", err)
	}
	l.agent.refuse = nil
	l.agent.plan.Legs = append(l.agent.plan.Legs, agentapi.Leg{IfName: "net2", Bridge: "pb-none", Pools: l.agent.plan.Legs[0].Pools})
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", pod)); code(err) != 7 || !strings.Contains(err.Error(), "pb-none") {
		t.Errorf("ADD with a leg on a switch that isn't there: %v, want code 7", err)
	}
	l.noLegs(t)
	l.checkClean(t)
}

// TestLegGoesByGC ends a pod that was forgotten with its leg.
func TestLegGoesByGC(t *testing.T) {
	l, _ := newLegLab(t)
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", netlab.New(t))); err != nil {
		t.Fatal(err)
	}
	if exists := l.Node.Do(func() error {
		there, err := leg.Exists(leg.HostName("c1", "net1"))
		if err == nil && !there {
			err = fmt.Errorf("no leg")
		}
		return err
	}); exists != nil {
		t.Fatal(exists)
	}
	fresh := cnilab.NewRuntime(t, l.Node, l.CNI.Path[0], confList(l.dir, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","durable":false,"ranges":`+dualStack+`}`))
	if err := fresh.GC(t.Context()); err != nil {
		t.Error(err)
	}
	l.noLegs(t)
	if _, found, err := l.store.Find(store.Key{ContainerID: "c1", IfName: "net1"}); err != nil || found {
		t.Errorf("lease of the leg: %t, %v, want it gone", found, err)
	}
}

// TestMulticastCrossesLeg discovers a camera and takes its stream, and is discovered:
// all by multicast over the leg.
func TestMulticastCrossesLeg(t *testing.T) {
	l, camera := newLegLab(t)
	pod := netlab.New(t)
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", pod)); err != nil {
		t.Fatal(err)
	}
	type end struct {
		ns  *netlab.Namespace
		nic string
	}
	at, outside := end{pod, "net1"}, end{camera, "eth0"}
	for _, group := range []struct {
		name     string
		addr     string
		packets  int
		size     int
		from, to end
	}{
		{"discovery", "224.0.0.251:5353", 3, 64, outside, at},
		{"answer", "224.0.0.251:5353", 3, 64, at, outside},
		{"discovery by IPv6", "[ff02::fb]:5353", 3, 64, outside, at},
		{"answer by IPv6", "[ff02::fb]:5353", 3, 64, at, outside},
		{"RTP", "239.1.2.3:5004", 60, 1328, outside, at},
		{"RTP from the pod", "239.1.2.4:5004", 60, 1328, at, outside},
	} {
		t.Run(group.name, func(t *testing.T) {
			to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group.addr))
			var receiver *net.UDPConn
			do(t, group.to.ns, func() error {
				nic, err := net.InterfaceByName(group.to.nic)
				if err != nil {
					return err
				}
				receiver, err = net.ListenMulticastUDP("udp", nic, to)
				return err
			})
			defer receiver.Close()
			if to.IP.To4() != nil {
				group.from.ns.Exec(t, "ip", "route", "replace", "224.0.0.0/4", "dev", group.from.nic)
			} else {
				to.Zone = group.from.nic
			}
			var sender *net.UDPConn
			netlab.WaitFor(t, 5*time.Second, "an address to send from", func() error {
				return group.from.ns.Do(func() (err error) {
					sender, err = net.DialUDP("udp", nil, to)
					return err
				})
			})
			defer sender.Close()
			sent := make([]byte, group.size)
			for i := range group.packets {
				sent[0] = byte(i)
				if _, err := sender.Write(sent); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 2048)
			for i := range group.packets {
				if err := receiver.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
					t.Fatal(err)
				}
				n, from, err := receiver.ReadFromUDPAddrPort(buf)
				if err != nil || n != group.size || buf[0] != byte(i) {
					t.Fatalf("packet %d of %d: %d bytes of %s, %v", i, group.packets, n, from, err)
				}
			}
		})
	}
}

func do(t *testing.T, ns *netlab.Namespace, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}
