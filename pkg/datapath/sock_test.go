// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const pinDir = "/sys/fs/bpf/patchbay"

func open(t *testing.T) *datapath.Datapath {
	t.Helper()
	d, err := datapath.Open(datapath.Options{PinDir: pinDir})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Logf("close: %v", err)
		}
	})
	return d
}

// attachSockets attaches to the root of the private cgroup namespace.
func attachSockets(t *testing.T, d *datapath.Datapath) {
	t.Helper()
	cgroup, err := netlab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.AttachSockets(cgroup); err != nil {
		t.Fatal(err)
	}
}

// frontend is an entry for cluster scope.
func frontend(proto service.Protocol, addr string, backends ...string) service.Entry {
	a := netip.MustParseAddrPort(addr)
	e := service.Entry{
		Frontend: service.Frontend{Address: service.Address{IP: a.Addr(), Port: a.Port(), Protocol: proto}},
		Port:     service.PortName{Namespace: "default", Name: addr},
		SocketLB: len(backends) > 0,
	}
	for _, b := range backends {
		e.Backends = append(e.Backends, service.Backend{Addr: netip.MustParseAddrPort(b)})
	}
	return e
}

func setServices(t *testing.T, d *datapath.Datapath, entries ...service.Entry) {
	t.Helper()
	if err := d.SetServices(entries); err != nil {
		t.Fatal(err)
	}
}

// serveTCP answers each connection with its own address.
func serveTCP(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, addr)
			c.Close()
		}
	}()
}

// serveUDP answers each datagram with its own address.
func serveUDP(t *testing.T, addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := c.WriteTo([]byte(addr), from); err != nil {
				return
			}
		}
	}()
}

func askTCP(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

// TestSocketReconnects connects one socket to a frontend, then to the backend
// itself, then to another frontend: its peer is always whom it asked for.
func TestSocketReconnects(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		setServices(t, d, frontend(service.UDP, "10.96.0.10:53", "127.0.0.2:5301"), frontend(service.UDP, "10.96.0.11:53", "127.0.0.2:5301"))
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for _, to := range []unix.SockaddrInet4{
			{Addr: [4]byte{10, 96, 0, 10}, Port: 53}, {Addr: [4]byte{127, 0, 0, 2}, Port: 5301},
			{Addr: [4]byte{10, 96, 0, 11}, Port: 53}, {Addr: [4]byte{10, 96, 0, 10}, Port: 53},
		} {
			if err := unix.Connect(fd, &to); err != nil {
				t.Fatal(err)
			}
			peer, err := unix.Getpeername(fd)
			if err != nil {
				t.Fatal(err)
			}
			got := peer.(*unix.SockaddrInet4)
			if got.Addr != to.Addr || got.Port != to.Port {
				t.Errorf("peer: want %v:%d, got %v:%d", to.Addr, to.Port, got.Addr, got.Port)
			}
		}
	})
}

func TestSocketMPTCP(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		serveTCP(t, "127.0.0.2:8080")
		setServices(t, d, frontend(service.TCP, "10.96.0.1:80", "127.0.0.2:8080"))
		var dialer net.Dialer
		dialer.SetMultipathTCP(true)
		c, err := dialer.DialContext(t.Context(), "tcp", "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if b, err := io.ReadAll(c); err != nil || string(b) != "127.0.0.2:8080" {
			t.Errorf("want the backend's answer, got %q, %v", b, err)
		}
	})
}

// TestSocketsMove attaches at another cgroup than before: the old one's
// programs are gone, the new one's there.
func TestSocketsMove(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		serveTCP(t, "127.0.0.2:8080")
		setServices(t, d, frontend(service.TCP, "10.96.0.1:80", "127.0.0.2:8080"))
		mount, err := netlab.CgroupMount()
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(mount, "other")
		if err := os.Mkdir(other, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(other) })
		if err := d.AttachSockets(other); err != nil {
			t.Fatal(err)
		}
		if answer, err := askTCP("10.96.0.1:80"); err == nil {
			t.Errorf("outside the cgroup: want no answer, got %s", answer)
		}
		attachSockets(t, d)
		if _, err := askTCP("10.96.0.1:80"); err != nil {
			t.Errorf("back again: %v", err)
		}
		if err := d.AttachSockets(t.TempDir()); err == nil {
			t.Error("not a cgroup: want an error")
		}
	})
}

// ask sends a datagram and returns the answer and whom it is from.
func ask(t *testing.T, c net.PacketConn, to string) (answer, from string) {
	t.Helper()
	dst := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
	if _, err := c.WriteTo([]byte("?"), dst); err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
	buf := make([]byte, 64)
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, addr, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatalf("answer from %s: %v", to, err)
	}
	return string(buf[:n]), addr.String()
}

func TestSocketTCP(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		for _, tt := range []struct {
			name, frontend string
			backends       []string
		}{
			{"v4", "10.96.0.1:80", []string{"127.0.0.2:8080", "127.0.0.3:8081"}},
			{"v6", "[fd00:96::1]:80", []string{"[::1]:9001", "[::1]:9002"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				for _, b := range tt.backends {
					serveTCP(t, b)
				}
				setServices(t, d, frontend(service.TCP, tt.frontend, tt.backends...))
				seen := map[string]int{}
				for range 100 {
					answer, err := askTCP(tt.frontend)
					if err != nil {
						t.Fatal(err)
					}
					seen[answer]++
				}
				for _, b := range tt.backends {
					if seen[b] < 20 {
						t.Errorf("backend %s: want at least 20 of 100 connections, got %d (%v)", b, seen[b], seen)
					}
				}
			})
		}
	})
}

func TestSocketAffinity(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		var backends []string
		for i := range 8 {
			backends = append(backends, fmt.Sprintf("127.0.0.2:%d", 8000+i))
			serveTCP(t, backends[i])
		}
		e := frontend(service.TCP, "10.96.0.1:80", backends...)
		e.Affinity = 3 * time.Hour
		setServices(t, d, e)
		first, err := askTCP("10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		same := func() {
			t.Helper()
			for range 20 {
				if answer, err := askTCP("10.96.0.1:80"); err != nil || answer != first {
					t.Fatalf("want %s each time, got %s, %v", first, answer, err)
				}
			}
		}
		same()
		// Others come and go: the client stays where it was.
		e.Backends = nil
		for _, b := range backends[4:] {
			e.Backends = append(e.Backends, service.Backend{Addr: netip.MustParseAddrPort(b)})
		}
		if !strings.Contains(strings.Join(backends[4:], " "), first) {
			e.Backends = append([]service.Backend{{Addr: netip.MustParseAddrPort(first)}}, e.Backends...)
		}
		setServices(t, d, e)
		same()
		// Its own goes: another has it.
		e.Backends = []service.Backend{{Addr: netip.MustParseAddrPort(backends[0])}}
		if first == backends[0] {
			e.Backends[0].Addr = netip.MustParseAddrPort(backends[1])
		}
		setServices(t, d, e)
		if answer, err := askTCP("10.96.0.1:80"); err != nil || answer == first {
			t.Fatalf("want another than %s, got %s, %v", first, answer, err)
		}
	})
}

func TestSocketUDP(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		for _, tt := range []struct {
			name, network, first, second string
			backends                     []string
		}{
			{"v4", "udp4", "10.96.0.10:53", "10.96.0.11:53", []string{"127.0.0.2:5301", "127.0.0.3:5302"}},
			{"v6", "udp6", "[fd00:96::10]:53", "[fd00:96::11]:53", []string{"[::1]:5303", "[::1]:5304"}},
			{"mapped", "udp", "10.96.0.10:53", "10.96.0.11:53", []string{"127.0.0.2:5305", "127.0.0.3:5306"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				for _, b := range tt.backends {
					serveUDP(t, b)
				}
				setServices(t, d, frontend(service.UDP, tt.first, tt.backends...), frontend(service.UDP, tt.second, tt.backends...))
				t.Run("unconnected", func(t *testing.T) { testUnconnected(t, tt.network, tt.first, tt.second) })
				t.Run("connected", func(t *testing.T) { testConnected(t, tt.network, tt.first, tt.backends) })
				t.Run("silent", func(t *testing.T) { testSilent(t, tt.network, tt.first, tt.second) })
			})
		}
	})
}

// testUnconnected uses one socket for two frontends with the same backends:
// each sticks to its backend, and answers come from the frontend asked.
func testUnconnected(t *testing.T, network, first, second string) {
	c, err := net.ListenPacket(network, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stuck := map[string]string{}
	for range 20 {
		for _, to := range []string{first, second} {
			answer, from := ask(t, c, to)
			if stuck[to] == "" {
				stuck[to] = answer
			}
			if answer != stuck[to] {
				t.Fatalf("%s: want always %s, got %s", to, stuck[to], answer)
			}
			if from != to {
				t.Fatalf("%s: want the answer from it, got it from %s", to, from)
			}
		}
	}
}

// testSilent uses a connected socket, whose own datagrams pass no hook, for another
// frontend too, after a long time: it stays the first one's.
func testSilent(t *testing.T, network, first, second string) {
	c, err := net.Dial(network, first)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pins, err := filepath.Glob(filepath.Join(pinDir, "v*", "maps", "sock_peers"))
	if err != nil || len(pins) != 1 {
		t.Fatal(pins, err)
	}
	peers, err := ebpf.LoadPinnedMap(pins[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer peers.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	other := netip.MustParseAddrPort(second)
	to := unix.Sockaddr(&unix.SockaddrInet6{Addr: other.Addr().As16(), Port: int(other.Port())})
	if other.Addr().Is4() {
		to = &unix.SockaddrInet4{Addr: other.Addr().As4(), Port: int(other.Port())}
	}
	if cerr := raw.Control(func(fd uintptr) {
		var peer objects.MapSockPeer
		if err = peers.Lookup(uint32(fd), &peer); err != nil {
			return
		}
		peer.Seen -= 1000
		if err = peers.Put(uint32(fd), peer); err == nil {
			err = unix.Sendto(int(fd), []byte("?"), 0, to)
		}
	}); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	var from unix.Sockaddr
	if cerr := raw.Control(func(fd uintptr) { from, err = unix.Getpeername(int(fd)) }); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	if got := sockaddr(from); got != netip.MustParseAddrPort(first) {
		t.Errorf("the socket's peer is %s, want %s", got, first)
	}
}

func sockaddr(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func testConnected(t *testing.T, network, to string, backends []string) {
	seen := map[string]bool{}
	for range 40 {
		c, err := net.Dial(network, to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.RemoteAddr().String() != to {
			t.Errorf("peer: want %s, got %s", to, c.RemoteAddr())
		}
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.(*net.UDPConn).ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from.String() != to {
			t.Errorf("answer: want it from %s, got it from %s", to, from)
		}
		seen[string(buf[:n])] = true
	}
	for _, b := range backends {
		if !seen[b] {
			t.Errorf("backend %s: want some of 40 sockets there", b)
		}
	}
}
