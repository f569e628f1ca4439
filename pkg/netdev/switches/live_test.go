// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// session is a connection on which both ends speak all the time, as one's login
// on the device would.
type session struct {
	conn net.Conn
	gaps chan time.Duration
}

// startSession connects from a machine behind a port to an address of the device's.
func startSession(t *testing.T, client, device *netlab.Namespace, address string) *session {
	t.Helper()
	l := listen(t, device, address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	s := &session{gaps: make(chan time.Duration, 1)}
	err := client.Do(func() (err error) {
		s.conn, err = net.DialTimeout("tcp", address, time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.speak()
	return s
}

// speak sends a word and waits for its echo, again and again, until the
// connection closes. It then tells the longest that one took.
func (s *session) speak() {
	var longest time.Duration
	for word := []byte("still there?"); ; {
		began := time.Now()
		if _, err := s.conn.Write(word); err != nil {
			break
		}
		if _, err := io.ReadFull(s.conn, word); err != nil {
			break
		}
		longest = max(longest, time.Since(began))
	}
	s.gaps <- longest
}

// patience is how long a connection may stand still; an emulated machine is slow.
const patience = 3 * time.Second

// end fails the test if the connection has been lost or stood still for long.
func (s *session) end(t *testing.T, what string) {
	t.Helper()
	select {
	case gap := <-s.gaps:
		t.Errorf("%s: the connection is lost; longest gap before that %v", what, gap)
	default:
		s.conn.Close()
		gap := <-s.gaps
		t.Logf("%s: longest gap %v", what, gap)
		if gap > patience {
			t.Errorf("%s: the connection stood still for %v", what, gap)
		}
	}
}

// The port that one is logged in by may be enabled for compute and disabled again.
func TestLoginSurvivesEnablingAndDisabling(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.cameras.Addr(t, "eth0", "fd00:50::9/64")
		d.internet.Route(t, "192.168.50.0/24", netip.MustParseAddr("198.51.100.2"), "eth0")
		router := netlab.New(t) // behind the cameras' network: reached by a route over the port
		netlab.Wire(t, d.cameras, "eth1", router, "eth0")
		d.cameras.Addr(t, "eth1", "192.168.60.1/24")
		d.cameras.Sysctl(t, "net/ipv4/ip_forward", "1")
		router.Addr(t, "eth0", "192.168.60.2/24")
		router.Route(t, "default", netip.MustParseAddr("192.168.60.1"), "eth0")
		sessions := map[string]*session{
			"IPv4, on the link":     startSession(t, d.cameras, d.here, "192.168.50.1:22"),
			"IPv6, on the link":     startSession(t, d.cameras, d.here, "[fd00:50::1]:22"),
			"IPv4, behind a router": startSession(t, router, d.here, "192.168.50.1:23"),
			"by the other port":     startSession(t, d.internet, d.here, "192.168.50.1:24"),
		}
		before := d.state(t)
		for range 5 {
			sync(t, declared()...)
			sync(t, declared()[0])
		}
		for what, s := range sessions {
			s.end(t, what)
		}
		sync(t)
		if diff := cmp.Diff(sorted(before), sorted(d.state(t))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}
	})
}

// What a port was like comes back: its MTU, that it was down, fixed neighbours,
// routes of two next hops.
func TestPortIsLeftAsItWas(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.here.Exec(t, "ip", "neigh", "add", "192.168.50.77", "lladdr", "02:00:00:00:00:77", "dev", "port3", "nud", "permanent")
		d.here.Exec(t, "ip", "route", "add", "192.168.70.0/24", "nexthop", "via", "192.168.50.8", "dev", "port3", "nexthop", "via", "198.51.100.7", "dev", "port2")
		d.here.Sysctl(t, "net/ipv6/conf/port3/accept_ra", "2")
		before := d.state(t) + d.here.Exec(t, "ip", "neigh", "show", "nud", "permanent")
		wide := Switch{Name: "ext", Kind: External, Port: "port3", MTU: 9000}
		if got := sync(t, wide)[0].MTU; got != 9000 {
			t.Errorf("MTU: got %d, want 9000", got)
		}
		for _, want := range []string{"192.168.50.77 dev pb-ext lladdr 02:00:00:00:00:77 PERMANENT", "nexthop via 192.168.50.8 dev pb-ext", "pb-ext: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9000", "port3@if"} {
			if got := d.state(t) + d.here.Exec(t, "ip", "neigh") + d.here.Exec(t, "ip", "route"); !strings.Contains(got, want) {
				t.Errorf("%q is missing in:\n%s", want, got)
			}
		}
		if ra := d.here.Exec(t, "cat", "/proc/sys/net/ipv6/conf/pb-ext/accept_ra"); ra != "2\n" {
			t.Errorf("accept_ra of the bridge: %s", ra)
		}
		sync(t, wide)
		sync(t)
		if diff := cmp.Diff(sorted(before), sorted(d.state(t)+d.here.Exec(t, "ip", "neigh", "show", "nud", "permanent"))); diff != "" {
			t.Errorf("the port isn't as before (-before +after):\n%s", diff)
		}

		d.here.Exec(t, "ip", "link", "add", "port4", "type", "veth", "peer", "name", "port5")
		sync(t, Switch{Name: "ext", Kind: External, Port: "port4"})
		sync(t)
		if got := d.here.Exec(t, "ip", "-o", "link", "show", "port4"); strings.Contains(got, ",UP") {
			t.Errorf("the port was down before: %s", got)
		}
	})
}

// The internal switch's traffic leaves by the port that has the default route, at any time.
func TestNATFollowsTheDefaultRoute(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		for _, ns := range []*netlab.Namespace{d.internet, d.cameras} { // the server that both ways lead to
			ns.Addr(t, "lo", "203.0.113.5/32")
		}
		sync(t, declared()[0])
		inside := d.leg(t, "pb-int", "leg0", "172.31.0.10/24")
		inside.Route(t, "default", netip.MustParseAddr("172.31.0.1"), "eth0")
		for i, way := range []struct {
			gateway, port, from string
			server              *netlab.Namespace
		}{
			{"198.51.100.1", "port2", "198.51.100.2", d.internet},
			{"192.168.50.9", "port3", "192.168.50.1", d.cameras},
			{"198.51.100.1", "port2", "198.51.100.2", d.internet},
		} {
			d.here.Exec(t, "ip", "route", "replace", "default", "via", way.gateway, "dev", way.port)
			if got := sync(t, declared()[0])[0].Uplink; got != way.port {
				t.Errorf("uplink: got %s, want %s", got, way.port)
			}
			if from := seenFrom(t, inside, way.server, fmt.Sprintf("203.0.113.5:%d", 80+i)); from != way.from {
				t.Errorf("the default route over %s: the server sees %s, want %s", way.port, from, way.from)
			}
		}
		// With the port that has it enslaved, the route goes along.
		d.here.Exec(t, "ip", "route", "replace", "default", "via", "192.168.50.9", "dev", "port3")
		sync(t, declared()...)
		if from := seenFrom(t, inside, d.cameras, "203.0.113.5:90"); from != "192.168.50.1" {
			t.Errorf("over the external switch: the server sees %s", from)
		}
	})
}

// Legs outlive the port that their switch is bridged to.
func TestLegsOutliveThePort(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		sync(t, declared()...)
		a, b := d.leg(t, "pb-ext", "leg1", "192.168.50.20/24"), d.leg(t, "pb-ext", "leg2", "192.168.50.21/24")
		between := startSession(t, a, b, "192.168.50.21:22")
		outside := startSession(t, d.cameras, a, "192.168.50.20:22")
		sync(t, declared()[0])
		if got := d.here.Exec(t, "ip", "-o", "-4", "addr", "show", "port3"); !strings.Contains(got, "192.168.50.1/24") {
			t.Errorf("the port has %q", got)
		}
		if err := d.cameras.Do(func() error { return try("192.168.50.20:22") }); err == nil {
			t.Error("the disabled port still leads to the legs")
		}
		sync(t, declared()...)
		between.end(t, "between two legs")
		netlab.WaitFor(t, 5*time.Second, "the legs outside", func() error { return d.cameras.Do(func() error { return try("192.168.50.20:22") }) })
		select {
		case <-outside.gaps:
			t.Error("a connection from outside did not outlive a short disabling")
		default:
			outside.conn.Close()
		}
	})
}

// A VM's tap on the switch stays there, whatever becomes of the port.
func TestTap(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		sync(t, declared()[1])
		vm := openTap(t, "vnet0")
		d.here.Exec(t, "ip", "link", "set", "vnet0", "master", "pb-ext", "up")
		sync(t, declared()[1])
		if got := d.here.Exec(t, "ip", "-o", "link", "show", "vnet0"); !strings.Contains(got, "master pb-ext") {
			t.Fatalf("the tap was taken off: %s", got)
		}
		// The VM asks for the camera, which answers across the bridge.
		mac := [6]byte{2, 0, 0, 0, 0, 0x42}
		ask := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
		ask = append(ask, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		ask = append(append(ask, mac[:]...), 192, 168, 50, 42)
		ask = append(ask, 0, 0, 0, 0, 0, 0, 192, 168, 50, 9)
		if _, err := vm.Write(ask); err != nil {
			t.Fatal(err)
		}
		if err := vm.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		camera := d.cameras.MAC(t, "eth0")
		for frame := make([]byte, 2048); ; {
			n, err := vm.Read(frame)
			if err != nil {
				t.Fatalf("no answer from the camera: %v", err)
			}
			if n >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 && [6]byte(frame[22:28]) == camera {
				return
			}
		}
	})
}

// openTap makes a tap and returns the VM's end of it.
func openTap(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		pad   [22]byte
	}
	copy(request.name[:], name)
	request.flags = unix.IFF_TAP | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("TUNSETIFF: %v", errno)
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	t.Cleanup(func() { f.Close() })
	return f
}

// Discovery and streams of cameras are multicast: they cross the switch, both
// ways and in both families, though nobody there asks who listens.
func TestMulticastCrosses(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t)
		d.cameras.Addr(t, "eth0", "fd00:50::9/64")
		sync(t, declared()...)
		inside := d.leg(t, "pb-ext", "leg1", "192.168.50.20/24")
		inside.Addr(t, "eth0", "fd00:50::20/64")
		for _, ns := range []*netlab.Namespace{d.cameras, inside} {
			ns.Route(t, "239.0.0.0/8", netip.Addr{}, "eth0")
		}
		for _, group := range []string{"239.255.255.250:3702", "[ff02::c]:3702"} {
			for what, ends := range map[string][2]*netlab.Namespace{"camera to leg": {d.cameras, inside}, "leg to camera": {inside, d.cameras}} {
				heard := listenGroup(t, ends[1], group)
				err := netlab.Poll(5*time.Second, func() error {
					err := ends[0].Do(func() error { return sayTo(group) })
					if err != nil {
						return err
					}
					select {
					case <-heard:
						return nil
					case <-time.After(50 * time.Millisecond):
						return errors.New("not heard")
					}
				})
				if err != nil {
					t.Errorf("%s, %s: %v", group, what, err)
				}
			}
		}
	})
}

// listenGroup joins a group on eth0 and tells when something was heard.
func listenGroup(t *testing.T, ns *netlab.Namespace, group string) <-chan struct{} {
	t.Helper()
	heard := make(chan struct{}, 1)
	err := ns.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err := net.ListenMulticastUDP("udp", eth0, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group)))
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			if _, _, err := conn.ReadFromUDP(make([]byte, 64)); err == nil {
				heard <- struct{}{}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return heard
}

// sayTo sends a datagram to a group out of eth0.
func sayTo(group string) error {
	to := netip.MustParseAddrPort(group)
	if to.Addr().Is6() {
		group = netip.AddrPortFrom(to.Addr().WithZone("eth0"), to.Port()).String()
	}
	conn, err := net.Dial("udp", group)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("who is there?"))
	return err
}
