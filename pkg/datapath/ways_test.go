// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestBackendOutside has a machine outside serve a LoadBalancer address: it sees
// the node as its client, or it would answer the real one by itself.
func TestBackendOutside(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		outside := &pod{ns: newNamespace(t)}
		l.internal.Join(t, outside.ns, "eth0")
		for i, f := range families() {
			prefix := fmt.Sprintf(f.internal, 77)
			outside.ns.Addr(t, "eth0", prefix)
			outside.addrs = append(outside.addrs, netip.MustParsePrefix(prefix).Addr())
			outside.ns.Route(t, "default", l.nodes[0].addrs(false)[i], "eth0")
		}
		outside.serve(t)
		for i, f := range families() {
			var entries []service.Entry
			for _, proto := range []service.Protocol{service.TCP, service.UDP} {
				for _, e := range l.entries(l.nodes[0], proto, i, f) {
					e.Backends = []service.Backend{{Addr: netip.AddrPortFrom(outside.addrs[i], 8080)}}
					entries = append(entries, e)
				}
			}
			l.nodes[0].set(t, entries...)
			for _, network := range []string{"tcp", "udp"} {
				a, err := askFrom(l.client, network, net.JoinHostPort(f.loadBalancer, "80"), "?")
				if err != nil {
					t.Errorf("%s %s: %v; drops: %s", f.name, network, err, l.drops(t))
				} else if want := l.nodes[0].addrs(false)[i].String(); a.client != want {
					t.Errorf("%s %s: the backend saw %s, want the node's %s", f.name, network, a.client, want)
				}
			}
		}
	})
}

// TestNeighbourUnresolved has a node's own packets sent on to another node whose
// MAC it doesn't know yet: the kernel asks, and sends them then.
func TestNeighbourUnresolved(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n, far := l.nodes[0], l.nodes[1].pods[0]
		// The gateway needs no answer: the packets never get there.
		for _, gateway := range []string{"10.0.0.254", "fd00:10::254"} {
			n.ns.Exec(t, "ip", "neigh", "add", gateway, "lladdr", "02:00:00:00:00:fe", "dev", "int", "nud", "permanent")
		}
		for i, f := range families() {
			entry := l.entries(n, service.TCP, i, f)[0]
			entry.Backends = []service.Backend{{Addr: netip.AddrPortFrom(far.addrs[i], 8080)}}
			n.set(t, entry)
			n.ns.Exec(t, "ip", f.neighbourFamily, "neigh", "flush", "dev", "int")
			if _, err := askFrom(n.ns, "tcp", net.JoinHostPort(f.clusterIP, "80"), "?"); err != nil {
				t.Errorf("%s: %v; drops: %s", f.name, err, l.drops(t))
			}
		}
	})
}

// TestRepliesCut has answers that may be fragmented and are too big for the
// tunnel, back to the node that the client's packets came in by.
func TestRepliesCut(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		l.setServices(t)
		f, far := families()[0], l.nodes[1].pods[0]
		far.ns.Sysctl(t, "net/ipv4/ip_no_pmtu_disc", "1") // its sockets' packets have no DF
		far.ns.Run(t, func() {
			c, err := net.ListenPacket("udp", netip.AddrPortFrom(far.addrs[0], 8090).String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			go answerUDP(c)
		})
		entry := l.entries(l.nodes[0], service.UDP, 0, f)[2]
		entry.Backends = []service.Backend{{Addr: netip.AddrPortFrom(far.addrs[0], 8090)}}
		l.nodes[0].set(t, entry)
		err := l.client.Do(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(f.loadBalancer, "80"))
			if err != nil {
				return err
			}
			defer c.Close()
			raw, err := c.(*net.UDPConn).SyscallConn()
			if err != nil {
				return err
			}
			set := func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
			}
			if ctl := raw.Control(set); ctl != nil || err != nil {
				return errors.Join(ctl, err)
			}
			// The pod adds its own address and the client's: more than the tunnel's
			// 1,450 bytes, within its own MTU.
			for _, size := range []int{1, 1422 - 20} {
				if _, err := c.Write(make([]byte, size)); err != nil {
					return err
				}
				if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
					return err
				}
				n, err := c.Read(make([]byte, 4096))
				if err != nil {
					return fmt.Errorf("answer to %d bytes: %w", size, err)
				}
				if size > 1 && (n <= 1422 || n > 1472) {
					return fmt.Errorf("the answer has %d bytes: fits the tunnel, or not the pod", n)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%v; drops: %s", err, l.drops(t))
		}
	})
}

// TestSharedBackend asks two Services with one and the same backend from one
// socket of a pod: each answer is from whom it was asked.
func TestSharedBackend(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		attachSockets(t, l.nodes[0].d)
		client := l.nodes[0].pods[0]
		for i, f := range families() {
			for _, backend := range []*pod{l.nodes[0].pods[1], l.nodes[1].pods[0]} {
				var entries []service.Entry
				for _, port := range []uint16{80, 81, 82} {
					e := l.entries(l.nodes[0], service.UDP, i, f)[0]
					e.Frontend.Port = port
					e.Port.Port = fmt.Sprint(port)
					e.Backends = []service.Backend{{Addr: netip.AddrPortFrom(backend.addrs[i], 8080)}}
					entries = append(entries, e)
				}
				l.nodes[0].set(t, entries...)
				client.ns.Run(t, func() {
					c, err := net.ListenPacket("udp", netip.AddrPortFrom(client.addrs[i], 0).String())
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					for round := range 5 {
						for _, e := range entries {
							to := netip.AddrPortFrom(e.Frontend.IP, e.Frontend.Port).String()
							if answer, from := ask(t, c, to); from != to || !strings.HasPrefix(answer, backend.addrs[i].String()) {
								t.Errorf("%s, round %d: %s answered for %s", to, round, answer, from)
							}
						}
					}
				})
			}
		}
	})
}
