// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/packet"
)

// A peer that is a gateway too sends answers to what the node and its pods began:
// they must not pin these flows to it, against a route that may change.
func TestGatewayPeer(t *testing.T) {
	n := newNode(t)
	n.ns.Exec(t, "ip", "addr", "add", nodeA.String()+"/32", "dev", "lo")
	n.ns.Exec(t, "ip", "link", "add", "other", "type", "veth", "peer", "name", "far")
	n.ns.Exec(t, "ip", "link", "set", "other", "up")
	n.ns.Exec(t, "ip", "route", "add", "default", "dev", "other")
	connected := n.listen(4000)
	if err := unix.Connect(connected, &unix.SockaddrInet4{Addr: client.As4(), Port: 53}); err != nil {
		t.Fatal(err)
	}
	n.listen(4001)
	n.gateway(neighbour)
	n.put("routes", objects.MapRouteKey{Prefixlen: 128, Addr: neighbour.As16()}, objects.MapRoute{Kind: kind(objects.MapRouteKindROUTE_UNMASQUERADED)})
	tcp := func(dst netip.Addr, flags uint8) []byte {
		return packet.Build(fromPeer, packet.IPv4{Src: client, Dst: dst}, packet.TCP{Src: 80, Dst: 4000, Flags: flags})
	}
	udp := func(sport, dport uint16) []byte {
		return packet.Build(fromPeer, packet.IPv4{Src: client, Dst: nodeA}, packet.UDP{Src: sport, Dst: dport})
	}
	entries := 0
	for _, tt := range []struct {
		name   string
		frame  []byte
		begins bool
	}{
		{"an answer to the node's connection", tcp(nodeA, packet.SYN|packet.ACK), false},
		{"data of it", tcp(nodeA, packet.ACK), false},
		{"an answer to a pod's connection", tcp(podA, packet.SYN|packet.ACK), false},
		{"an answer to the node's connected socket", udp(53, 4000), false},
		{"an ICMP message", packet.Build(fromPeer, packet.IPv4{Src: client, Dst: nodeA}, packet.ICMP{Type: 0, Rest: 0x00070001}), false},
		{"an answer to what a pod asked by the node's address", udp(53, 4002), false},
		{"an answer to a pod's own address, by the node that its route leads by",
			packet.Build(fromPeer, packet.IPv4{Src: neighbour, Dst: podA}, packet.UDP{Src: 53, Dst: 4000}), false},
		{"a client's datagram to a pod", packet.Build(fromPeer, packet.IPv4{Src: client, Dst: podA}, packet.UDP{Src: 53, Dst: 4000}), true},
		{"a client's connection", tcp(nodeA, packet.SYN), true},
		{"a client's connection to a pod", tcp(podA, packet.SYN), true},
		{"a datagram to a server", udp(53, 4001), true},
		{"another client's to the same port", udp(54, 4001), true},
	} {
		n.run("tc_uplink_in", tt.frame)
		if tt.begins {
			entries++
		}
		if got := n.count("flows_new"); got != entries {
			t.Fatalf("%s: %d entries, want %d", tt.name, got, entries)
		}
	}
}

// A client behind a node that is a gateway asks a Service there, whose backend is
// a pod here. Pods are masqueraded: their answers have to go to that node as they
// are, or it can't tell of what they are.
func TestServiceByGateway(t *testing.T) {
	n := newNode(t)
	n.gateway(neighbour)
	n.steps([]step{
		{name: "by the gateway", program: "tc_uplink_in", verdict: redirect,
			in:  packet.Build(fromPeer, packet.IPv4{Src: neighbour, Dst: podA}, packet.UDP{Src: 4000, Dst: 53}),
			out: packet.Build(toA, packet.IPv4{Src: neighbour, Dst: podA}, packet.UDP{Src: 4000, Dst: 53})},
		{name: "its answer", program: "tc_pod_in", verdict: redirect,
			in:  packet.Build(fromA, packet.IPv4{Src: podA, Dst: neighbour}, packet.UDP{Src: 53, Dst: 4000}),
			out: packet.Build(toPeer, packet.IPv4{Src: podA, Dst: neighbour}, packet.UDP{Src: 53, Dst: 4000})},
	})
}

// gateway has the node's route to an address lead by its peer.
func (n *node) gateway(to netip.Addr) {
	n.t.Helper()
	n.ns.Exec(n.t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.ns.Exec(n.t, "ip", "neigh", "add", nodeB.String(), "lladdr", net.HardwareAddr(peerMAC[:]).String(), "dev", "lo", "nud", "permanent")
	n.ns.Exec(n.t, "ip", "route", "add", to.String(), "via", nodeB.String(), "dev", "lo", "onlink")
}

// listen binds a UDP socket of the node.
func (n *node) listen(port int) (fd int) {
	n.t.Helper()
	err := n.ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		n.whole.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: nodeA.As4(), Port: port})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return fd
}

// While a flow moves from flows_new to flows, packets on another CPU find it in
// one of them.
func TestConfirmedMeanwhile(t *testing.T) {
	n := newNode(t)
	n.endpoint(podA2, here, macA2)
	n.service(1, service{addr: clusIP, port: 80, proto: 6, scopes: cluster, backends: []netip.AddrPort{ap(podA2, 8080)}})
	loaded := n.program("tc_pod_in")
	send := func(frame []byte) []byte {
		opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
		if _, err := loaded.Run(&opts); err != nil {
			t.Error(err)
		}
		return opts.DataOut
	}
	there := func(port uint16, flags uint8) []byte {
		return packet.Build(fromA, packet.IPv4{Src: podA, Dst: clusIP}, packet.TCP{Src: port, Dst: 80, Flags: flags})
	}
	back := func(port uint16, flags uint8) []byte {
		return packet.Build(fromA2, packet.IPv4{Src: podA2, Dst: podA}, packet.TCP{Src: 8080, Dst: port, Flags: flags})
	}
	for port := uint16(10000); port < 10600 && !t.Failed(); port++ {
		n.ns.Run(t, func() {
			send(there(port, packet.SYN))
			send(back(port, packet.SYN|packet.ACK))
		})
		var both sync.WaitGroup
		both.Go(func() { n.ns.Run(t, func() { send(there(port, packet.ACK)) }) })
		both.Go(func() {
			n.ns.Run(t, func() {
				for range 8 {
					if frame := send(back(port, packet.ACK)); !bytes.Equal(frame[26:30], clusIP.AsSlice()) {
						t.Errorf("port %d: an answer from %v, want the Service's", port, frame[26:30])
					}
				}
			})
		})
		both.Wait()
	}
	if got := n.count("flows"); got != 1200 {
		t.Errorf("%d confirmed entries, want 1,200", got)
	}
}
