// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const nodePort = 30080

// ways are the addresses that one Service is reached at, from node 1, in a family.
func (l *lab) ways(i int, f family) map[string]string {
	return map[string]string{
		"ClusterIP":             net.JoinHostPort(f.clusterIP, "80"),
		"LoadBalancer":          net.JoinHostPort(f.loadBalancer, "80"),
		"NodePort":              net.JoinHostPort(l.nodes[0].addrs(false)[i].String(), fmt.Sprint(nodePort)),
		"NodePort outside":      net.JoinHostPort(l.nodes[0].addrs(true)[i].String(), fmt.Sprint(nodePort)),
		"NodePort of the other": net.JoinHostPort(l.nodes[1].addrs(false)[i].String(), fmt.Sprint(nodePort)),
	}
}

// serveBy has node 1 serve all ways by one backend.
func (l *lab) serveBy(t *testing.T, i int, f family, backend netip.Addr) {
	t.Helper()
	n := l.nodes[0]
	var entries []service.Entry
	for _, proto := range []service.Protocol{service.TCP, service.UDP} {
		base := l.entries(n, proto, i, f)
		for _, addr := range []netip.Addr{n.addrs(false)[i], n.addrs(true)[i], l.nodes[1].addrs(false)[i]} {
			for _, e := range base[1:] {
				e.Frontend.IP, e.Frontend.Port = addr, nodePort
				e.Kind, e.NodePortRoles = service.NodePort, service.InternalNIC
				base = append(base, e)
			}
		}
		for _, e := range base {
			e.Backends = []service.Backend{{Addr: netip.AddrPortFrom(backend, 8080)}}
			entries = append(entries, e)
		}
	}
	n.set(t, entries...)
}

// TestEveryWay reaches every kind of backend by every kind of address, from a pod,
// a process of the node and a machine outside, at the socket and by packets: among
// them a pod and a node that reach themselves.
func TestEveryWay(t *testing.T) {
	for _, hooks := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooks %v", hooks), func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) { testEveryWay(t, hooks) })
		})
	}
}

func testEveryWay(t *testing.T, hooks bool) {
	l := newLab(t, false)
	l.setServices(t)
	n, other := l.nodes[0], l.nodes[1]
	if hooks {
		attachSockets(t, n.d)
	}
	for _, node := range l.nodes {
		(&pod{ns: node.ns, addrs: node.addrs(false)}).serve(t) // on the host's network
	}
	for i, f := range families() {
		n.serviceRoute(t, f)
		for name, backend := range map[string]netip.Addr{
			"the pod itself": n.pods[0].addrs[i], "a pod beside it": n.pods[1].addrs[i], "a pod elsewhere": other.pods[0].addrs[i],
			"the node": n.addrs(false)[i], "the other node": other.addrs(false)[i],
		} {
			l.serveBy(t, i, f, backend)
			for way, to := range l.ways(i, f) {
				for from, ns := range map[string]*netlab.Namespace{"pod": n.pods[0].ns, "node": n.ns, "client": l.client} {
					// Packets of the node to its own address pass no NIC; a client
					// outside has the LoadBalancer alone, and no hooks.
					if !hooks && from == "node" && (way == "NodePort" || way == "NodePort outside") ||
						from == "client" && (way != "LoadBalancer" || hooks) {
						continue
					}
					for _, network := range []string{"tcp", "udp"} {
						got, err := askFrom(ns, network, to, "?")
						if err != nil || got.pod != backend.String() {
							t.Errorf("%s %s from %s by %s, served by %s: want %s, got %v, %v; drops: %s", f.name, network, from, way, name, backend, got, err, l.drops(t))
						}
					}
				}
			}
		}
		// NodePorts are not to be had through other addresses, nor on NICs of another role.
		for _, to := range []string{net.JoinHostPort(f.loadBalancer, fmt.Sprint(nodePort)), l.ways(i, f)["NodePort outside"]} {
			if hooks {
				break // the client's, as all sockets of the test, are the cluster's
			}
			if a, err := askFrom(l.client, "tcp", to, "?"); err == nil {
				t.Errorf("%s: want no answer, got %v", to, a)
			}
		}
	}
}

// TestOnePort asks several frontends with one backend from one port of a client, at
// the same time: each answers as itself.
func TestOnePort(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			for _, backend := range []netip.Addr{n.pods[1].addrs[i], l.nodes[1].pods[0].addrs[i]} {
				l.serveBy(t, i, f, backend)
				ways := l.ways(i, f)
				err := n.pods[0].ns.Do(func() error {
					c, err := net.ListenPacket("udp", netip.AddrPortFrom(n.pods[0].addrs[i], 4000).String())
					if err != nil {
						return err
					}
					defer c.Close()
					for range 3 {
						for _, to := range ways {
							if answer, from := ask(t, c, to); from != to {
								return fmt.Errorf("%s: %s answered for %s", to, answer, from)
							}
						}
					}
					return nil
				})
				if err != nil {
					t.Errorf("%s: %v; drops: %s", f.name, err, l.drops(t))
				}
			}
		}
	})
}

// TestAddressChanges gives the node another address: its NodePort is there, and no
// longer at the old one; a connection by the LoadBalancer goes on.
func TestAddressChanges(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			l.serveBy(t, i, f, n.pods[1].addrs[i])
			conn, err := dialFrom(l.client, net.JoinHostPort(f.loadBalancer, "80"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			old := l.ways(i, f)["NodePort"]
			fresh := netip.MustParsePrefix(fmt.Sprintf(f.internal, 41))
			n.ns.Exec(t, "ip", f.neighbourFamily, "addr", "del", fmt.Sprintf(f.internal, 1), "dev", "int")
			n.ns.Addr(t, "int", fresh.String())
			addrs := n.addrs(false)
			addrs[i] = fresh.Addr()
			err = n.ns.Do(func() error {
				return n.d.SetNIC(datapath.NIC{Index: n.ns.Index(t, "int"), Name: "int", Role: datapath.Internal, MAC: n.ns.MAC(t, "int"), MTU: 1500, Addrs: addrs})
			})
			if err != nil {
				t.Fatal(err)
			}
			var entries []service.Entry
			for _, e := range l.entries(n, service.TCP, i, f) {
				if e.Kind == service.LoadBalancer {
					e.Frontend.IP, e.Frontend.Port = fresh.Addr(), nodePort
					e.Kind, e.NodePortRoles = service.NodePort, service.InternalNIC
				}
				entries = append(entries, e)
			}
			n.set(t, append(entries, l.entries(n, service.TCP, i, f)[1:]...)...)
			inside := l.nodes[1].pods[0].ns
			if _, err := askFrom(inside, "tcp", netip.AddrPortFrom(fresh.Addr(), nodePort).String(), "?"); err != nil {
				t.Errorf("%s: NodePort at the new address: %v; drops: %s", f.name, err, l.drops(t))
			}
			if a, err := askFrom(n.pods[0].ns, "tcp", old, "?"); err == nil {
				t.Errorf("%s: NodePort at the old address: want no answer, got %v", f.name, a)
			}
			if err := talk(conn); err != nil {
				t.Errorf("%s: the connection by the LoadBalancer: %v", f.name, err)
			}
		}
	})
}

func dialFrom(ns *netlab.Namespace, to string) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.DialTimeout("tcp", to, 2*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, talk(c)
}

func talk(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "?"); err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 256))
	if n == 0 && err == nil {
		return errors.New("no answer")
	}
	return err
}
