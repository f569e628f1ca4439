// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

func TestFreePorts(t *testing.T) {
	tests := []struct {
		tunnel uint16
		want   [][2]uint16
	}{
		{4789, [][2]uint16{{1024, 4788}, {4790, 29999}, {32768, 65535}}},
		{8472, [][2]uint16{{1024, 8471}, {8473, 29999}, {32768, 65535}}},
		{40000, [][2]uint16{{1024, 29999}, {32768, 39999}, {40001, 65535}}},
		{443, [][2]uint16{{1024, 29999}, {32768, 65535}}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, freePorts(tt.tunnel, [2]uint16{30000, 32767})); diff != "" {
			t.Errorf("tunnel %d (-want +got):\n%s", tt.tunnel, diff)
		}
	}
}

func TestMerge(t *testing.T) {
	var in []netip.Prefix
	for _, s := range []string{"10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "10.1.2.3/32", "192.168.0.0/24", "10.0.0.0/8"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	if got := fmt.Sprint(merge(in, true)); got != "[10.0.0.0/8 192.168.0.0/24]" {
		t.Errorf("merge v4 = %s", got)
	}
	if got := fmt.Sprint(merge(in, false)); got != "[fd00::/8]" {
		t.Errorf("merge v6 = %s", got)
	}
}

func config() Config {
	var c Config
	for _, s := range []string{"10.244.0.0/16", "fd00:10::/64"} {
		c.Pods = append(c.Pods, netip.MustParsePrefix(s))
	}
	c.Exclude = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("192.168.1.2/32")}
	c.NICs = []NIC{{1, []netip.Addr{netip.MustParseAddr("192.168.1.1")}}}
	c.Masquerade, c.TunnelPort, c.NodePorts = true, 4789, [2]uint16{30000, 32767}
	return c
}

func TestApply(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here := netlab.Open(t, "/proc/self/ns/net")
		handle := func() string { return here.Exec(t, "nft", "-a", "list", "table", "inet", TableName) }
		if err := Apply(config()); err != nil {
			t.Fatal(err)
		}
		first := handle()
		if !strings.Contains(first, `"lo" : 192.168.1.1`) {
			t.Errorf("the NIC isn't in the table:\n%s", first)
		}
		for _, want := range []string{"snat ip to oif map @nics4:1024-4788", "4790-29999", "snat ip6 to oif map @nics6:32768-65535", "notrack"} {
			if !strings.Contains(first, want) {
				t.Errorf("table lacks %q:\n%s", want, first)
			}
		}
		if err := Apply(config()); err != nil || handle() != first {
			t.Errorf("applied again: %v, and the table was made anew:\n%s", err, handle())
		}
		here.Exec(t, "nft", "flush", "chain", "inet", TableName, chainOut)
		if err := Apply(config()); err != nil || !strings.Contains(handle(), "goto masquerade4") {
			t.Errorf("after a foreign flush: %v, table:\n%s", err, handle())
		}
		for range 2 {
			if err := Remove(); err != nil {
				t.Error(err)
			}
		}
		if left := here.Exec(t, "nft", "list", "ruleset"); strings.Contains(left, TableName) {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestMasquerade sends through a node with the table in force: what the outside sees.
func TestMasquerade(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		node, pod, out := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), netlab.New(t)
		netlab.Wire(t, node, "veth0", pod, "eth0")
		netlab.Wire(t, node, "eth0", out, "eth0")
		pod.Addr(t, "eth0", "10.244.0.2/24")
		node.Addr(t, "veth0", "10.244.0.1/24")
		pod.Route(t, "default", netip.MustParseAddr("10.244.0.1"), "eth0")
		node.Addr(t, "eth0", "192.168.1.1/24")
		out.Addr(t, "eth0", "192.168.1.2/24")
		out.Addr(t, "eth0", "192.168.1.3/24")
		out.Route(t, "10.244.0.0/16", netip.MustParseAddr("192.168.1.1"), "eth0")
		node.Sysctl(t, "net/ipv4/ip_forward", "1")
		c := config()
		c.NICs = []NIC{{node.Index(t, "eth0"), []netip.Addr{netip.MustParseAddr("fd01::1"), netip.MustParseAddr("192.168.1.1")}}}
		if err := Apply(c); err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			name     string
			port     int // the pod's source port
			dst      string
			wantAddr string
			keep     bool // the source port
		}{
			{"port kept", 5555, "192.168.1.3", "192.168.1.1", true},
			{"high port kept", 61000, "192.168.1.3", "192.168.1.1", true},
			{"NodePort avoided", 30080, "192.168.1.3", "192.168.1.1", false},
			{"tunnel's avoided", 4789, "192.168.1.3", "192.168.1.1", false},
			{"privileged avoided", 123, "192.168.1.3", "192.168.1.1", false},
			{"excluded", 5555, "192.168.1.2", "10.244.0.2", true},
		}
		for _, tt := range tests {
			for _, proto := range []string{"udp", "tcp"} {
				t.Run(tt.name+" "+proto, func(t *testing.T) {
					seen, err := sourceSeen(proto, pod, out, tt.port, tt.dst)
					if err != nil {
						t.Fatal(err)
					}
					if seen.Addr().String() != tt.wantAddr || (int(seen.Port()) == tt.port) != tt.keep {
						t.Errorf("seen from %s, want %s, port kept %v", seen, tt.wantAddr, tt.keep)
					}
					if p := seen.Port(); !tt.keep && (p < 1024 || p == 4789 || p >= 30000 && p <= 32767) {
						t.Errorf("source port %d is one to avoid", p)
					}
				})
			}
		}
	})
}

// sourceSeen sends from the pod and returns the source that the other end sees.
func sourceSeen(proto string, pod, out *netlab.Namespace, port int, dst string) (netip.AddrPort, error) {
	const service = 7777
	if proto == "udp" {
		var server *net.UDPConn
		err := out.Do(func() (err error) {
			server, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(dst), Port: service})
			return err
		})
		if err != nil {
			return netip.AddrPort{}, err
		}
		defer server.Close()
		err = pod.Do(func() error {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: port}, &net.UDPAddr{IP: net.ParseIP(dst), Port: service})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("x"))
			return err
		})
		if err != nil {
			return netip.AddrPort{}, err
		}
		err = server.SetReadDeadline(time.Now().Add(3 * time.Second))
		_, from, readErr := server.ReadFromUDPAddrPort(make([]byte, 9))
		return from, errors.Join(err, readErr)
	}
	var server net.Listener
	if err := out.Do(func() (err error) {
		server, err = net.Listen("tcp4", net.JoinHostPort(dst, strconv.Itoa(service)))
		return err
	}); err != nil {
		return netip.AddrPort{}, err
	}
	defer server.Close()
	err := pod.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: 3 * time.Second}
		conn, err := d.Dial("tcp4", net.JoinHostPort(dst, strconv.Itoa(service)))
		if err != nil {
			return err
		}
		err = conn.(*net.TCPConn).SetLinger(0)
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	conn, err := server.Accept()
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	return netip.ParseAddrPort(conn.RemoteAddr().String())
}

// TestMidFlow: a TCP segment without a connection doesn't leave with the node's address.
func TestMidFlow(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		node, pod, out := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), netlab.New(t)
		netlab.Wire(t, node, "veth0", pod, "eth0")
		netlab.Wire(t, node, "eth0", out, "eth0")
		pod.Addr(t, "eth0", "10.244.0.2/24")
		node.Addr(t, "veth0", "10.244.0.1/24")
		pod.Route(t, "default", netip.MustParseAddr("10.244.0.1"), "eth0")
		node.Addr(t, "eth0", "192.168.1.1/24")
		out.Addr(t, "eth0", "192.168.1.3/24")
		node.Sysctl(t, "net/ipv4/ip_forward", "1")
		if err := Apply(config()); err != nil {
			t.Fatal(err)
		}
		capture := netlab.NewCapture(t, out, "eth0")
		frame := packet.Build(packet.Eth{}, packet.IPv4{Src: netip.MustParseAddr("10.244.0.2"), Dst: netip.MustParseAddr("192.168.1.3")},
			packet.TCP{Src: 8080, Dst: 50000, Flags: packet.ACK, Seq: 1, Ack: 1})
		midFlow := frame[34:]
		badSum := append([]byte{}, midFlow...)
		badSum[16]++
		pod.Run(t, func() {
			conn, err := net.Dial("ip4:tcp", "192.168.1.3")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, segment := range [][]byte{midFlow, badSum} {
				if _, err := conn.Write(segment); err != nil {
					t.Fatal(err)
				}
			}
		})
		if _, err := sourceSeen("udp", pod, out, 5555, "192.168.1.3"); err != nil {
			t.Fatal(err)
		}
		isTCP := func(f netlab.Frame) bool {
			return len(f.Data) > 23 && f.Data[12] == 8 && f.Data[13] == 0 && f.Data[23] == 6
		}
		if n := capture.Count(isTCP); n != 0 {
			t.Errorf("%d mid-flow segments left the node", n)
		}
	})
}

// TestKeepOut: what comes by an interface that isn't ours reaches neither pods
// nor the tunnel, unless a pod has asked for it.
func TestKeepOut(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		node, pod, ours, other, leg := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), netlab.New(t), netlab.New(t), netlab.New(t)
		netlab.Wire(t, node, "pb0123456789a", pod, "eth0")
		netlab.Wire(t, node, "pb-ext", leg, "eth0")
		netlab.Wire(t, node, "eth0", ours, "eth0")
		netlab.Wire(t, node, "eth1", other, "eth0")
		pod.Addr(t, "eth0", "10.244.0.2/24")
		node.Addr(t, "pb0123456789a", "10.244.0.1/24")
		pod.Route(t, "default", netip.MustParseAddr("10.244.0.1"), "eth0")
		for i, ns := range []*netlab.Namespace{ours, other, leg} {
			node.Addr(t, []string{"eth0", "eth1", "pb-ext"}[i], fmt.Sprintf("192.168.%d.1/24", i+1))
			ns.Addr(t, "eth0", fmt.Sprintf("192.168.%d.3/24", i+1))
			ns.Route(t, "10.244.0.0/16", netip.MustParseAddr(fmt.Sprintf("192.168.%d.1", i+1)), "eth0")
		}
		node.Sysctl(t, "net/ipv4/ip_forward", "1")
		c := config()
		c.NICs, c.Links = nil, []int{node.Index(t, "eth0")}
		c.TunnelLinks = c.Links
		if err := Apply(c); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			from *netlab.Namespace
			at   *netlab.Namespace
			dst  string
			port int
			want bool
		}{
			{"ours to a pod", ours, pod, "10.244.0.2", 7777, true},
			{"a leg of a switch to a pod", leg, pod, "10.244.0.2", 7777, false},
			{"another to a pod", other, pod, "10.244.0.2", 7777, false},
			{"ours to the tunnel", ours, node, "192.168.1.1", 4789, true},
			{"another to the tunnel", other, node, "192.168.2.1", 4789, false},
			{"another to the node", other, node, "192.168.2.1", 4790, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				got, err := received(tt.from, tt.at, netip.AddrPortFrom(netip.MustParseAddr(tt.dst), uint16(tt.port)))
				if err != nil || got != tt.want {
					t.Errorf("received %v, %v, want %v", got, err, tt.want)
				}
			})
		}
		if _, err := sourceSeen("tcp", pod, other, 5555, "192.168.2.3"); err != nil {
			t.Errorf("a pod asks by the other interface: %v", err)
		}
	})
}

// received tells whether a datagram arrives.
func received(from, at *netlab.Namespace, dst netip.AddrPort) (bool, error) {
	var server *net.UDPConn
	err := at.Do(func() (err error) {
		server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(dst))
		return err
	})
	if err != nil {
		return false, err
	}
	defer server.Close()
	err = from.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(dst))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("x"))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		return false, err
	}
	err = server.SetReadDeadline(time.Now().Add(time.Second))
	_, _, readErr := server.ReadFromUDPAddrPort(make([]byte, 9))
	if errors.Is(readErr, os.ErrDeadlineExceeded) {
		return false, err
	}
	return true, errors.Join(err, readErr)
}
