// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// outer is the load balancer's entry for the outside, TCP, of a family.
func (l *lab) outer(i int, f family) service.Entry {
	return l.entries(l.nodes[0], service.TCP, i, f)[2]
}

func (n *node) set(t *testing.T, entries ...service.Entry) {
	t.Helper()
	if err := n.d.SetServices(entries); err != nil {
		t.Fatal(err)
	}
}

func TestSourceRanges(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			client := netip.MustParseAddr(f.client)
			e := l.outer(i, f)
			e.SourceRanges = []netip.Prefix{netip.PrefixFrom(client.Next(), client.BitLen())}
			n.set(t, e)
			before := n.dropped(t, "source-range")
			if a, err := askFrom(l.client, "tcp", net.JoinHostPort(f.loadBalancer, "80"), "?"); err == nil {
				t.Errorf("client outside %v: want no answer, got %v", e.SourceRanges, a)
			}
			if n.dropped(t, "source-range") == before {
				t.Errorf("want drops for source-range, got %s", l.drops(t))
			}
			e.SourceRanges = append(e.SourceRanges, netip.PrefixFrom(client, client.BitLen()-8).Masked())
			n.set(t, e)
			if _, err := askFrom(l.client, "tcp", net.JoinHostPort(f.loadBalancer, "80"), "?"); err != nil {
				t.Errorf("client in %v: %v; drops: %s", e.SourceRanges, err, l.drops(t))
			}
		}
	})
}

func TestNodePort(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		inside := newNamespace(t)
		l.internal.Join(t, inside, "eth0")
		inside.Addr(t, "eth0", "10.0.0.100/24")
		inside.Addr(t, "eth0", "fd00:10::100/64")
		for i, f := range families() {
			var entries []service.Entry
			for _, external := range []bool{false, true} {
				e := l.outer(i, f)
				e.Frontend.IP, e.Frontend.Port = n.addrs(external)[i], 30080
				e.Kind, e.NodePortRoles = service.NodePort, service.InternalNIC
				entries = append(entries, e)
			}
			n.set(t, entries...)
			for range 10 {
				if _, err := askFrom(inside, "tcp", net.JoinHostPort(n.addrs(false)[i].String(), "30080"), "?"); err != nil {
					t.Errorf("%s: node port on the internal NIC: %v; drops: %s", f.name, err, l.drops(t))
				}
			}
			before := n.dropped(t, "nodeport-nic")
			if a, err := askFrom(l.client, "tcp", net.JoinHostPort(n.addrs(true)[i].String(), "30080"), "?"); err == nil {
				t.Errorf("%s: node port on the external NIC: want none, got %v", f.name, a)
			}
			if n.dropped(t, "nodeport-nic") == before {
				t.Errorf("%s: want drops for nodeport-nic, got %s", f.name, l.drops(t))
			}
			// The node's other ports are its own.
			n.ns.Run(t, func() { serveTCP(t, net.JoinHostPort(n.addrs(true)[i].String(), "22")) })
			l.wantOpen(t, l.client, net.JoinHostPort(n.addrs(true)[i].String(), "22"))
		}
	})
}

func (l *lab) wantOpen(t *testing.T, from *netlab.Namespace, to string) {
	t.Helper()
	err := from.Do(func() error {
		_, err := askTCP(to)
		return err
	})
	if err != nil {
		t.Errorf("%s: %v; drops: %s", to, err, l.drops(t))
	}
}

func TestAffinity(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			e := l.outer(i, f)
			e.Affinity = time.Hour
			n.set(t, e)
			to := net.JoinHostPort(f.loadBalancer, "80")
			first, err := askFrom(l.client, "tcp", to, "?")
			if err != nil {
				t.Fatalf("%v; drops: %s", err, l.drops(t))
			}
			for range 20 {
				if got, err := askFrom(l.client, "tcp", to, "?"); err != nil || got != first {
					t.Fatalf("want always %v, got %v, %v", first, got, err)
				}
			}
			// Its backend goes: another answers, and that one stays.
			var rest []service.Backend
			for _, b := range e.Backends {
				if b.Addr.Addr().String() != first.pod {
					rest = append(rest, b)
				}
			}
			e.Backends = rest
			n.set(t, e)
			if got, err := askFrom(l.client, "tcp", to, "?"); err != nil || got == first {
				t.Errorf("want another than %v, got %v, %v; drops: %s", first, got, err, l.drops(t))
			}
		}
	})
}

// TestUDPMoves checks that a client's UDP flow goes to another pod as soon as
// its own is no backend any more, and not before.
func TestUDPMoves(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			e := l.entries(n, service.UDP, i, f)[2]
			n.set(t, e)
			var c net.Conn
			if err := l.client.Do(func() (err error) {
				c, err = net.Dial("udp", net.JoinHostPort(f.loadBalancer, "80"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask := func() string {
				t.Helper()
				if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(c, "?")
				line, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					t.Fatalf("%v; drops: %s", err, l.drops(t))
				}
				pod, _, _ := strings.Cut(line, " ")
				return pod
			}
			first := ask()
			all := e.Backends
			for _, gone := range all {
				if e.Backends = remove(all, gone); gone.Addr.Addr().String() == first {
					continue
				}
				n.set(t, e)
				if got := ask(); got != first {
					t.Errorf("another backend went: want still %s, got %s", first, got)
				}
			}
			e.Backends = nil
			for _, b := range all {
				if b.Addr.Addr().String() != first {
					e.Backends = append(e.Backends, b)
				}
			}
			n.set(t, e)
			if got := ask(); got == first {
				t.Errorf("its backend went: want another than %s", first)
			}
		}
	})
}

func remove(backends []service.Backend, gone service.Backend) []service.Backend {
	var rest []service.Backend
	for _, b := range backends {
		if b != gone {
			rest = append(rest, b)
		}
	}
	return rest
}

// TestHairpin checks that a pod reaches itself through its Service.
func TestHairpin(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		for i, f := range families() {
			e := l.entries(n, service.TCP, i, f)[0]
			e.Backends = e.Backends[:1]
			n.set(t, e)
			got, err := askFrom(n.pods[0].ns, "tcp", net.JoinHostPort(f.clusterIP, "80"), "?")
			if err != nil || got.pod != n.pods[0].addrs[i].String() {
				t.Errorf("%s: want the pod's own answer, got %v, %v; drops: %s", f.name, got, err, l.drops(t))
			}
			t.Logf("%s: the pod sees itself as %s", f.name, got.client)
		}
	})
}

// TestEndpointGoes checks that a pod's address is nobody's once it is removed,
// and that what its veth still sends goes nowhere.
func TestEndpointGoes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		n := l.nodes[0]
		gone := n.pods[1]
		if err := n.d.RemoveEndpoint(datapath.Endpoint{IfIndex: n.ns.Index(t, "pod11")}); err != nil {
			t.Fatal(err)
		}
		if a, err := askFrom(n.pods[0].ns, "udp", net.JoinHostPort(gone.addrs[0].String(), "8080"), "?"); err == nil {
			t.Errorf("to the pod that went: want no answer, got %v", a)
		}
		if a, err := askFrom(gone.ns, "udp", net.JoinHostPort(n.pods[0].addrs[0].String(), "8080"), "?"); err == nil {
			t.Errorf("from the pod that went: want no answer, got %v", a)
		}
		netlab.WaitFor(t, 2*time.Second, "drop of what it sent", func() error {
			if n.dropped(t, "pod-source") == 0 {
				return errors.New(l.drops(t))
			}
			return nil
		})
	})
}
