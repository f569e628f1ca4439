// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
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

// family is the addresses of the lab in one family.
type family struct {
	name                     string
	internal, external       string // formats of the nodes' prefixes
	podRange, pods, pod      string // all, a node's, one
	serviceRange             string
	clusterIP, loadBalancer  string
	client, clientPrefix     string
	gateway, neighbourFamily string
}

func families() []family {
	return []family{
		{
			name: "v4", internal: "10.0.0.%d/24", external: "192.0.2.%d/24",
			podRange: "10.244.0.0/16", pods: "10.244.%d.0/24", pod: "10.244.%d.%d",
			serviceRange: "10.96.0.0/16", clusterIP: "10.96.0.1", loadBalancer: "192.0.2.50",
			client: "192.0.2.100", clientPrefix: "192.0.2.100/24", gateway: "169.254.1.1", neighbourFamily: "-4",
		},
		{
			name: "v6", internal: "fd00:10::%d/64", external: "2001:db8::%d/64",
			podRange: "fd00:244::/32", pods: "fd00:244:%d::/64", pod: "fd00:244:%d::%d",
			serviceRange: "fd00:96::/112", clusterIP: "fd00:96::1", loadBalancer: "2001:db8::50",
			client: "2001:db8::100", clientPrefix: "2001:db8::100/64", gateway: "fe80::1", neighbourFamily: "-6",
		},
	}
}

// pod is a network namespace behind a node.
type pod struct {
	ns    *netlab.Namespace
	addrs []netip.Addr // v4, v6
}

// node is a node of the lab: its namespace, datapath and pods.
type node struct {
	number    int
	ns        *netlab.Namespace
	d         *datapath.Datapath
	pods      []*pod
	tunnelled bool
}

// lab is two nodes on two L2 segments and a client on the outer one.
type lab struct {
	nodes              []*node
	client             *netlab.Namespace
	internal, external *netlab.Switch
}

// newNamespace makes a namespace whose links have usable link-local addresses
// at once: neighbour discovery needs them.
func newNamespace(t *testing.T) *netlab.Namespace {
	t.Helper()
	ns := netlab.New(t)
	ns.Sysctl(t, "net/ipv6/conf/default/dad_transmits", "0")
	return ns
}

// newLab raises it. Node 1 has two pods, node 2 one.
func newLab(t *testing.T, tunnelled bool) *lab {
	t.Helper()
	l := &lab{internal: netlab.NewSwitch(t), external: netlab.NewSwitch(t), client: newNamespace(t)}
	l.external.Join(t, l.client, "eth0")
	for _, f := range families() {
		l.client.Addr(t, "eth0", f.clientPrefix)
	}
	for number := 1; number <= 2; number++ {
		l.nodes = append(l.nodes, l.newNode(t, number, tunnelled))
	}
	for _, n := range l.nodes {
		n.routeTo(t, l.other(n))
	}
	l.nodes[0].addPod(t, 10)
	l.nodes[0].addPod(t, 11)
	l.nodes[1].addPod(t, 10)
	return l
}

func (l *lab) other(n *node) *node { return l.nodes[2-n.number] }

func (l *lab) newNode(t *testing.T, number int, tunnelled bool) *node {
	t.Helper()
	n := &node{number: number, ns: newNamespace(t), tunnelled: tunnelled}
	l.internal.Join(t, n.ns, "int")
	l.external.Join(t, n.ns, "ext")
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		n.ns.Sysctl(t, key, "1")
	}
	for key, value := range map[string]string{"all": "2", "default": "2", "int": "2", "ext": "2"} {
		n.ns.Sysctl(t, "net/ipv4/conf/"+key+"/rp_filter", value)
	}
	for _, f := range families() {
		n.ns.Addr(t, "int", fmt.Sprintf(f.internal, number))
		n.ns.Addr(t, "ext", fmt.Sprintf(f.external, number))
	}
	n.ns.Route(t, "default", netip.MustParseAddr("10.0.0.254"), "int")
	n.ns.Route(t, "default", netip.MustParseAddr("fd00:10::254"), "int")
	if tunnelled {
		n.ns.Exec(t, "ip", "link", "add", "pb-vxlan", "type", "vxlan", "external", "dstport", "4789")
		n.ns.Exec(t, "ip", "link", "set", "pb-vxlan", "arp", "off", "mtu", "1450", "up")
	}
	n.open(t)
	return n
}

// open opens the node's datapath and sets its NICs.
func (n *node) open(t *testing.T) {
	t.Helper()
	err := n.ns.Do(func() (err error) {
		n.d, err = datapath.Open(datapath.Options{PinDir: fmt.Sprintf("%s-%d", pinDir, n.number)})
		if err != nil {
			return err
		}
		for _, nic := range []datapath.NIC{
			{Index: n.ns.Index(t, "int"), Name: "int", Role: datapath.Internal, MAC: n.ns.MAC(t, "int"), MTU: 1500, Addrs: n.addrs(false)},
			{Index: n.ns.Index(t, "ext"), Name: "ext", Role: datapath.External, MAC: n.ns.MAC(t, "ext"), MTU: 1500, Addrs: n.addrs(true)},
		} {
			if err := n.d.SetNIC(nic); err != nil {
				return err
			}
		}
		if !n.tunnelled {
			return nil
		}
		return n.d.SetTunnel(datapath.Tunnel{IfIndex: n.ns.Index(t, "pb-vxlan"), MTU: 1450, VNI: 20546, Port: 4789})
	})
	if err != nil {
		t.Fatalf("node %d: %+v", n.number, err)
	}
	t.Cleanup(func() { n.d.Close() })
}

// addrs are the node's addresses on a segment, v4 and v6.
func (n *node) addrs(external bool) []netip.Addr {
	var addrs []netip.Addr
	for _, f := range families() {
		format := f.internal
		if external {
			format = f.external
		}
		addrs = append(addrs, netip.MustParsePrefix(fmt.Sprintf(format, n.number)).Addr())
	}
	return addrs
}

// routeTo tells the node of the other one: kernel routes, datapath routes, peers.
func (n *node) routeTo(t *testing.T, other *node) {
	t.Helper()
	internal, external := n.ns.Index(t, "int"), n.ns.Index(t, "ext")
	var routes []datapath.Route
	for i, f := range families() {
		hop := other.addrs(false)[i]
		pods := netip.MustParsePrefix(fmt.Sprintf(f.pods, other.number))
		r := datapath.Route{Prefix: pods, Kind: datapath.RouteNative, NextHop: hop, IfIndex: internal, MTU: 1500}
		if n.tunnelled {
			r = datapath.Route{Prefix: pods, Kind: datapath.RouteTunnel, NextHop: other.addrs(false)[0], MTU: 1450}
			n.ns.Exec(t, "ip", f.neighbourFamily, "route", "add", pods.String(), "dev", "pb-vxlan")
		} else {
			n.ns.Route(t, pods.String(), hop, "int")
		}
		routes = append(routes, r,
			datapath.Route{Prefix: netip.MustParsePrefix(f.podRange), Kind: datapath.RoutePods},
			datapath.Route{Prefix: netip.MustParsePrefix(f.serviceRange), Kind: datapath.RouteService},
			datapath.Route{Prefix: netip.MustParsePrefix(fmt.Sprintf(f.pods, n.number)), Kind: datapath.RouteLocalPods},
			datapath.Route{Prefix: netip.PrefixFrom(hop, hop.BitLen()), Kind: datapath.RouteCluster, NextHop: hop, IfIndex: internal},
			datapath.Route{
				Prefix: netip.PrefixFrom(other.addrs(true)[i], hop.BitLen()), Kind: datapath.RouteCluster,
				NextHop: other.addrs(true)[i], IfIndex: external,
			})
	}
	if err := n.d.SetRoutes(routes); err != nil {
		t.Fatal(err)
	}
	var peers []datapath.Peer
	for i := range families() {
		peers = append(peers,
			datapath.Peer{IfIndex: internal, MAC: other.ns.MAC(t, "int"), Addr: other.addrs(false)[i]},
			datapath.Peer{IfIndex: external, MAC: other.ns.MAC(t, "ext"), Addr: other.addrs(true)[i]})
	}
	if err := n.d.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
}

// addPod makes a pod as the CNI plugin does.
func (n *node) addPod(t *testing.T, number int) {
	t.Helper()
	p := &pod{ns: newNamespace(t)}
	host := fmt.Sprintf("pod%d", number)
	netlab.Wire(t, n.ns, host, p.ns, "eth0")
	hostMAC, podMAC := n.ns.MAC(t, host), p.ns.MAC(t, "eth0")
	for _, f := range families() {
		addr := netip.MustParseAddr(fmt.Sprintf(f.pod, n.number, number))
		prefix := netip.PrefixFrom(addr, addr.BitLen()).String()
		p.addrs = append(p.addrs, addr)
		p.ns.Addr(t, "eth0", prefix)
		p.ns.Exec(t, "ip", f.neighbourFamily, "route", "add", f.gateway, "dev", "eth0")
		p.ns.Exec(t, "ip", f.neighbourFamily, "route", "add", "default", "via", f.gateway, "dev", "eth0")
		p.ns.Exec(t, "ip", "neigh", "add", f.gateway, "lladdr", net.HardwareAddr(hostMAC[:]).String(), "dev", "eth0", "nud", "permanent")
		n.ns.Exec(t, "ip", f.neighbourFamily, "route", "add", prefix, "dev", host)
		n.ns.Exec(t, "ip", "neigh", "add", addr.String(), "lladdr", net.HardwareAddr(podMAC[:]).String(), "dev", host, "nud", "permanent")
	}
	e := datapath.Endpoint{IfIndex: n.ns.Index(t, host), HostMAC: hostMAC, MAC: podMAC, Addrs: p.addrs}
	if err := n.ns.Do(func() error { return n.d.AddEndpoint(e) }); err != nil {
		t.Fatal(err)
	}
	n.pods = append(n.pods, p)
	p.serve(t)
}

// serve answers on port 8080, TCP and UDP: "own address, client's address".
func (p *pod) serve(t *testing.T) {
	t.Helper()
	p.ns.Run(t, func() {
		for _, addr := range p.addrs {
			own := netip.AddrPortFrom(addr, 8080).String()
			l, err := net.Listen("tcp", own)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go answerTCP(l)
			c, err := net.ListenPacket("udp", own)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			go answerUDP(c)
		}
	})
}

func answerTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			in := bufio.NewScanner(c)
			in.Buffer(nil, 1<<20)
			for in.Scan() {
				fmt.Fprintf(c, "%s %s %s\n", host(c.LocalAddr()), host(c.RemoteAddr()), in.Text())
			}
		}()
	}
}

func answerUDP(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := c.WriteTo(fmt.Appendf(nil, "%s %s %s", host(c.LocalAddr()), host(from), buf[:n]), from); err != nil {
			return
		}
	}
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// answer is what a pod said: who it is, and whom it saw.
type answer struct{ pod, client string }

// askFrom asks a TCP or UDP service once, from a namespace.
func askFrom(ns *netlab.Namespace, network, to, text string) (answer, error) {
	var a answer
	err := ns.Do(func() error {
		c, err := net.DialTimeout(network, to, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(c, text); err != nil {
			return err
		}
		line, err := bufio.NewReaderSize(c, 1<<20).ReadString('\n')
		if err != nil {
			return err
		}
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) < 2 {
			return fmt.Errorf("answer %q", line)
		}
		a = answer{fields[0], fields[1]}
		return nil
	})
	return a, err
}

// setServices sets one Service with all pods behind the cluster and the load
// balancer addresses of both families, on all nodes. Announced by node 1.
func (l *lab) setServices(t *testing.T) {
	t.Helper()
	for _, n := range l.nodes {
		var entries []service.Entry
		for i, f := range families() {
			for _, proto := range []service.Protocol{service.TCP, service.UDP} {
				entries = append(entries, l.entries(n, proto, i, f)...)
			}
		}
		if err := n.d.SetServices(entries); err != nil {
			t.Fatal(err)
		}
	}
	var announced []datapath.Announcement
	for _, f := range families() {
		announced = append(announced, datapath.Announcement{
			Addr: netip.MustParseAddr(f.loadBalancer), IfIndex: l.nodes[0].ns.Index(t, "ext"), Expires: time.Minute,
		})
	}
	if err := l.nodes[0].d.SetAnnouncements(announced); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) entries(n *node, proto service.Protocol, familyIndex int, f family) []service.Entry {
	var backends []service.Backend
	for _, other := range l.nodes {
		for _, p := range other.pods {
			backends = append(backends, service.Backend{
				Addr: netip.AddrPortFrom(p.addrs[familyIndex], 8080), Local: other == n,
			})
		}
	}
	entry := func(addr string, scope service.Scope, kind service.Kind) service.Entry {
		return service.Entry{
			Frontend: service.Frontend{
				Address: service.Address{IP: netip.MustParseAddr(addr), Port: 80, Protocol: proto}, Scope: scope,
			},
			Port:     service.PortName{Namespace: "default", Name: f.name},
			Kind:     kind,
			Backends: backends, Consistent: scope == service.External, SocketLB: scope == service.Cluster,
		}
	}
	return []service.Entry{
		entry(f.clusterIP, service.Cluster, service.ClusterIP),
		entry(f.loadBalancer, service.Cluster, service.LoadBalancer),
		entry(f.loadBalancer, service.External, service.LoadBalancer),
	}
}

// drops says what all nodes dropped, for messages.
func (l *lab) drops(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, n := range l.nodes {
		drops, err := n.d.Drops()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "node %d: %v; ", n.number, drops)
	}
	return b.String()
}
