// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// churnLab is a node, which is the test's own namespace, with a pod that asks,
// one that has all addresses of endpoints, and a client outside.
type churnLab struct {
	t                     *testing.T
	d                     *datapath.Datapath
	node, pod, pods, away *netlab.Namespace
}

const (
	endpointsOfFamily = 1000
	churnPins         = "/sys/fs/bpf/patchbay"
)

// endpointIP is the address of an endpoint, all in one pod.
func endpointIP(family, number int) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, 244, byte(16 + number/250), byte(1 + number%250)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:244::1:%x", 1+number))
}

func (l *churnLab) ip(args string) {
	l.t.Helper()
	run(l.t, exec.Command("sh", "-c", "ip "+args))
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
}

func newChurnLab(t *testing.T) *churnLab {
	t.Helper()
	l := &churnLab{t: t, node: netlab.Open(t, "/proc/self/ns/net"), pod: netlab.New(t), pods: netlab.New(t), away: netlab.New(t)}
	for _, ns := range []*netlab.Namespace{l.node, l.pod, l.pods, l.away} {
		ns.Sysctl(t, "net/ipv6/conf/default/dad_transmits", "0")
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		l.node.Sysctl(t, key, "1")
	}
	netlab.Wire(t, l.node, "ext", l.away, "eth0")
	l.node.Addr(t, "ext", "198.51.100.1/24")
	l.node.Addr(t, "ext", "2001:db8:1::1/64")
	l.away.Addr(t, "eth0", "198.51.100.100/24")
	l.away.Addr(t, "eth0", "2001:db8:1::100/64")
	l.away.Route(t, "192.0.2.0/24", netip.MustParseAddr("198.51.100.1"), "eth0")
	l.away.Route(t, "2001:db8:50::/64", netip.MustParseAddr("2001:db8:1::1"), "eth0")

	d, err := datapath.Open(datapath.Options{PinDir: churnPins})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { d.Close() })
	l.d = d
	l.must(d.SetNIC(datapath.NIC{
		Index: l.node.Index(t, "ext"), Name: "ext", Role: datapath.External, MAC: l.node.MAC(t, "ext"), MTU: 1500,
		Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")},
	}))
	var routes []datapath.Route
	for prefix, kind := range map[string]datapath.RouteKind{
		"10.244.0.0/16": datapath.RouteLocalPods, "fd00:244::/64": datapath.RouteLocalPods,
		"10.96.0.0/16": datapath.RouteService, "fd00:96::/112": datapath.RouteService,
	} {
		routes = append(routes, datapath.Route{Prefix: netip.MustParsePrefix(prefix), Kind: kind})
	}
	l.must(d.SetRoutes(routes))
	l.addPod(l.pod, "pod", oracle.PodIP(4, 0, 5), oracle.PodIP(6, 0, 5))
	l.addAll()
	return l
}

func (l *churnLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// addPod wires a pod that has addresses.
func (l *churnLab) addPod(ns *netlab.Namespace, host string, addrs ...netip.Addr) {
	l.t.Helper()
	netlab.Wire(l.t, l.node, host, ns, "eth0")
	hostMAC, podMAC := l.node.MAC(l.t, host), ns.MAC(l.t, "eth0")
	for family, gateway := range map[string]string{"-4": "169.254.1.1", "-6": "fe80::1"} {
		ns.Exec(l.t, "ip", family, "route", "add", gateway, "dev", "eth0")
		ns.Exec(l.t, "ip", family, "route", "add", "default", "via", gateway, "dev", "eth0")
		ns.Exec(l.t, "ip", "neigh", "add", gateway, "lladdr", net.HardwareAddr(hostMAC[:]).String(), "dev", "eth0", "nud", "permanent")
	}
	if ns != l.pods {
		for _, addr := range addrs {
			ns.Addr(l.t, "eth0", netip.PrefixFrom(addr, addr.BitLen()).String())
			family := map[bool]string{true: "-4", false: "-6"}[addr.Is4()]
			l.ip(fmt.Sprintf("%s route add %s dev %s", family, addr, host))
		}
	}
	l.must(l.d.AddEndpoint(datapath.Endpoint{IfIndex: l.node.Index(l.t, host), HostMAC: hostMAC, MAC: podMAC, Addrs: addrs}))
}

// addAll makes the pod that has the addresses of all endpoints, and serves
// there: port 8080, TCP and UDP, answered with the address that was asked.
func (l *churnLab) addAll() {
	l.t.Helper()
	var addrs []netip.Addr
	for _, f := range oracle.Families() {
		for number := range endpointsOfFamily {
			addrs = append(addrs, endpointIP(f, number))
		}
	}
	l.addPod(l.pods, "pods", addrs...)
	mac := l.pods.MAC(l.t, "eth0")
	for _, r := range []struct{ family, prefix, via string }{
		{"-4", "10.244.16.0/20", "169.254.9.9"}, {"-6", "fd00:244::1:0/112", "fe80::9:9"},
	} {
		l.pods.Exec(l.t, "ip", r.family, "route", "add", "local", r.prefix, "dev", "lo")
		// The node's stack finds all addresses without asking for each.
		l.ip(fmt.Sprintf("neigh add %s lladdr %s dev pods nud permanent", r.via, net.HardwareAddr(mac[:])))
		l.ip(fmt.Sprintf("%s route add %s via %s dev pods onlink", r.family, r.prefix, r.via))
	}
	l.pods.Sysctl(l.t, "net/ipv6/ip_nonlocal_bind", "1")
	l.pods.Run(l.t, func() {
		tcp, err := net.Listen("tcp", ":8080")
		l.must(err)
		l.t.Cleanup(func() { tcp.Close() })
		go serveTCP(tcp)
		for _, addr := range addrs {
			udp, err := net.ListenPacket("udp", netip.AddrPortFrom(addr, 8080).String())
			l.must(err)
			l.t.Cleanup(func() { udp.Close() })
			go serveUDP(udp, addr)
		}
	})
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.LocalAddr().String())
			fmt.Fprintln(c, host)
		}()
	}
}

func serveUDP(c net.PacketConn, own netip.Addr) {
	buf := make([]byte, 64)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := c.WriteTo([]byte(own.String()+"\n"), from); err != nil {
			return
		}
	}
}

// ask asks a Service once, and returns which endpoint answered.
func ask(network string, to netip.AddrPort) (netip.Addr, error) {
	c, err := net.DialTimeout(network, to.String(), 5*time.Second)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	if _, err := fmt.Fprintln(c, "?"); err != nil {
		return netip.Addr{}, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(strings.TrimSpace(line))
}
