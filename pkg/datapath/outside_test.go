// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// dropped is how often node n dropped for a reason.
func (n *node) dropped(t *testing.T, reason string) uint64 {
	t.Helper()
	drops, err := n.d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drops {
		if d.Reason == reason {
			return d.Packets
		}
	}
	return 0
}

// TestOutside checks what a machine on the outer network can't do, with routes
// to the cluster's ranges through a node.
func TestOutside(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			gateway := n.addrs(true)[i]
			for _, prefix := range []string{f.podRange, f.serviceRange} {
				l.client.Route(t, prefix, gateway, "eth0")
			}
			for _, tt := range []struct{ name, to, reason string }{
				{"pod", net.JoinHostPort(n.pods[0].addrs[i].String(), "8080"), "pod-outside"},
				{"ClusterIP", net.JoinHostPort(f.clusterIP, "80"), "service-outside"},
			} {
				t.Run(f.name+" "+tt.name, func(t *testing.T) {
					before := n.dropped(t, tt.reason)
					if a, err := askFrom(l.client, "udp", tt.to, "?"); err == nil {
						t.Errorf("%s from outside: want no answer, got %v", tt.to, a)
					}
					if got := n.dropped(t, tt.reason); got == before {
						t.Errorf("drops for %s: want some, got none; all: %s", tt.reason, l.drops(t))
					}
				})
			}
		}
	})
}

// TestPing checks that announced and cluster addresses answer echo requests.
func TestPing(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		for _, f := range families() {
			l.client.Exec(t, "ping", "-c", "2", "-W", "2", f.loadBalancer)
			l.nodes[1].pods[0].ns.Exec(t, "ping", "-c", "2", "-W", "2", f.clusterIP)
			l.client.Exec(t, "ping", "-c", "1", "-W", "2", strings.Split(fmt.Sprintf(f.external, 1), "/")[0])
		}
		t.Log(l.drops(t))
	})
}

// TestForged checks that a pod can't send from an address that isn't its own.
func TestForged(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		p := n.pods[0]
		p.ns.Addr(t, "eth0", "10.244.1.99/32")
		err := p.ns.Do(func() error {
			d := net.Dialer{Timeout: time.Second, LocalAddr: &net.UDPAddr{IP: net.IPv4(10, 244, 1, 99)}}
			c, err := d.Dial("udp", n.pods[1].addrs[0].String()+":8080")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("?"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		netlab.WaitFor(t, 2*time.Second, "drop of the forged packet", func() error {
			if n.dropped(t, "pod-source") == 0 {
				return errors.New("none counted")
			}
			return nil
		})
	})
}

// TestNoBackend checks what an empty Service says.
func TestNoBackend(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			entry := l.entries(n, service.TCP, i, f)
			entry[0].Backends, entry[0].SocketLB = nil, false
			entry[2].Backends = nil
			if err := n.d.SetServices(entry); err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				name string
				from *netlab.Namespace
				to   string
			}{
				{"from a pod", n.pods[0].ns, f.clusterIP},
				{"from outside", l.client, f.loadBalancer},
				{"from the node", n.ns, f.clusterIP},
			} {
				t.Run(f.name+" "+tt.name, func(t *testing.T) {
					if tt.from == n.ns {
						n.serviceRoute(t, f)
					}
					_, err := askFrom(tt.from, "tcp", net.JoinHostPort(tt.to, "80"), "?")
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("want connection refused, got %v; drops: %s", err, l.drops(t))
					}
				})
			}
		}
	})
}

// serviceRoute sends the node's own packets for the Service range to the
// uplink, as the agent does.
func (n *node) serviceRoute(t *testing.T, f family) {
	t.Helper()
	n.ns.Exec(t, "ip", f.neighbourFamily, "neigh", "replace", f.gateway, "lladdr", "02:70:62:50:42:02", "dev", "int", "nud", "permanent")
	n.ns.Exec(t, "ip", f.neighbourFamily, "route", "replace", f.serviceRange, "via", f.gateway, "dev", "int", "onlink")
}

// TestNodeToService checks the packet path for a node's own processes.
func TestNodeToService(t *testing.T) {
	for _, mode := range []struct {
		name      string
		tunnelled bool
	}{{"native", false}, {"tunnel", true}} {
		t.Run(mode.name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				l := newLab(t, mode.tunnelled)
				l.setServices(t)
				n := l.nodes[0]
				for i, f := range families() {
					n.serviceRoute(t, f)
					for _, network := range []string{"tcp", "udp"} {
						t.Run(f.name+"/"+network, func(t *testing.T) {
							l.wantAll(t, n.ns, network, f.clusterIP, i, n.addrs(false)[i].String())
						})
					}
				}
			})
		})
	}
}

// TestReplyPath checks that replies leave by the NIC that the request came in
// by, wherever the backend is, and that the address appears on no other NIC.
func TestReplyPath(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		f := families()[0]
		address := netip.MustParseAddr(f.loadBalancer).As4()
		from := func(frame netlab.Frame) bool {
			return len(frame.Data) > 34 && frame.Data[12] == 8 && frame.Data[13] == 0 && [4]byte(frame.Data[26:30]) == address
		}
		external := netlab.NewCapture(t, l.nodes[0].ns, "ext")
		others := []*netlab.Capture{
			netlab.NewCapture(t, l.nodes[0].ns, "int"), netlab.NewCapture(t, l.nodes[1].ns, "int"), netlab.NewCapture(t, l.nodes[1].ns, "ext"),
		}
		l.wantAll(t, l.client, "tcp", f.loadBalancer, 0, f.client)
		if got := external.Count(func(fr netlab.Frame) bool { return fr.Outgoing && from(fr) }); got < 60 {
			t.Errorf("announcing NIC: want each of 60 connections answered there, got %d frames", got)
		}
		for _, c := range others {
			if got := c.Count(func(fr netlab.Frame) bool { return fr.Outgoing && from(fr) }); got != 0 {
				t.Errorf("other NIC: want no frame from %s, got %d", f.loadBalancer, got)
			}
		}
	})
}

// TestRestart closes and opens a node's datapath under connections from
// outside and inside: none fails, and one that is open stays.
func TestRestart(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		l.setServices(t)
		f := families()[0]
		var long net.Conn
		if err := l.client.Do(func() (err error) {
			long, err = net.DialTimeout("tcp", net.JoinHostPort(f.loadBalancer, "80"), 2*time.Second)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer long.Close()
		ctx, stop := context.WithCancel(t.Context())
		var asked, failed atomic.Int64
		var wg sync.WaitGroup
		for _, from := range []struct {
			ns *netlab.Namespace
			to string
		}{{l.client, f.loadBalancer}, {l.nodes[0].pods[0].ns, f.clusterIP}} {
			wg.Go(func() {
				for ctx.Err() == nil {
					asked.Add(1)
					if _, err := askFrom(from.ns, "tcp", net.JoinHostPort(from.to, "80"), "?"); err != nil {
						failed.Add(1)
						t.Errorf("%s: %v", from.to, err)
					}
				}
			})
		}
		for range 5 {
			if err := l.nodes[0].d.Close(); err != nil {
				t.Fatal(err)
			}
			l.nodes[0].open(t)
			l.setServices(t)
			if err := ping(long); err != nil {
				t.Fatalf("open connection: %v", err)
			}
		}
		stop()
		wg.Wait()
		t.Logf("%d connections during 5 restarts, %d failed; %s", asked.Load(), failed.Load(), l.drops(t))
	})
}

// ping sends a line over an open connection and waits for the answer.
func ping(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "?"); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 256))
	return err
}

// TestRemoveDevices checks that nothing stays on any device.
func TestRemoveDevices(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		n := l.nodes[0]
		if err := n.d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := n.ns.Do(func() error { return datapath.Remove(fmt.Sprintf("%s-%d", pinDir, n.number)) }); err != nil {
			t.Fatal(err)
		}
		for _, dev := range []string{"int", "ext", "pb-vxlan", "pod10", "pod11"} {
			for _, what := range [][]string{
				{"qdisc", "show", "dev", dev, "clsact"},
				{"filter", "show", "dev", dev, "ingress"},
				{"filter", "show", "dev", dev, "egress"},
			} {
				out, _ := n.ns.TryExec("tc", what...)
				if strings.Contains(out, "clsact") || strings.Contains(out, "bpf") {
					t.Errorf("%s: want nothing left, got %s", dev, out)
				}
			}
			if out := n.ns.Exec(t, "bpftool", "net", "show", "dev", dev); strings.Contains(out, "tc_") {
				t.Errorf("%s: want nothing attached, got %s", dev, out)
			}
		}
	})
}
