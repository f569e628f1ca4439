// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// sockets connects real sockets under the real hooks. In their namespace every
// address is its own, so that a TCP connection to any backend comes about at
// once; the hooks that would hide the backend from getpeername are not attached.
type sockets struct{ t testing.TB }

func newSockets(t testing.TB, programs map[string]*ebpf.Program) *sockets {
	t.Helper()
	for _, args := range []string{
		"addr add 2001:db8:ffff::1/128 dev lo nodad",
		"route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo",
	} {
		if out, err := exec.Command("sh", "-c", "ip "+args).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	cgroup, err := netlab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]ebpf.AttachType{
		"sock_connect4": ebpf.AttachCGroupInet4Connect, "sock_connect6": ebpf.AttachCGroupInet6Connect,
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: at, Program: programs[name]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	for _, port := range []int{8080, 9090, 80} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
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
				c.Close()
			}
		}()
	}
	return &sockets{t}
}

// connect returns where a connect() to a packet's destination went. An IPv4
// address may be written in an IPv6 socket's way.
func (s *sockets) connect(p oracle.Packet, mapped bool) netip.AddrPort {
	s.t.Helper()
	kind := unix.SOCK_STREAM
	if p.Protocol == corev1.ProtocolUDP {
		kind = unix.SOCK_DGRAM
	}
	domain, to := unix.AF_INET6, sockaddr(p.Dst, mapped)
	if p.Dst.Addr().Is4() && !mapped {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(fd)
	// Closed by a reset: no port is kept waiting.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		s.t.Fatal(err)
	}
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.ECONNREFUSED) {
		return p.Dst // nobody listens there but backends
	}
	if err != nil {
		s.t.Fatalf("connect to %s: %v", p.Dst, err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		s.t.Fatalf("peer of %s: %v", p.Dst, err)
	}
	return addrPort(peer)
}

func sockaddr(a netip.AddrPort, mapped bool) unix.Sockaddr {
	if a.Addr().Is4() && !mapped {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
