// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const sctpPort = 36412 // of the Service; pods listen on another

// sctpSocket binds one: with one address each, no end tells the other of more.
func sctpSocket(local netip.AddrPort) (int, error) {
	domain := unix.AF_INET6
	if local.Addr().Is4() {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, err
	}
	patience := unix.Timeval{Sec: 5}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
		unix.Bind(fd, sctpAddr(local)))
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sctpAddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// serveSCTP sends back what a pod is sent.
func (p *pod) serveSCTP(t *testing.T) {
	t.Helper()
	p.ns.Run(t, func() {
		for _, addr := range p.addrs {
			fd, err := sctpSocket(netip.AddrPortFrom(addr, 8080))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}), unix.Listen(fd, 8)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Shutdown(fd, unix.SHUT_RDWR); unix.Close(fd) })
			go echoSCTP(fd)
		}
	})
}

func echoSCTP(listener int) {
	for {
		fd, _, err := unix.Accept(listener)
		if err != nil {
			return
		}
		go func() {
			defer unix.Close(fd)
			buf := make([]byte, 1<<16)
			for {
				n, err := again(unix.Read, fd, buf)
				if err != nil || n == 0 {
					return
				}
				if _, err := again(unix.Write, fd, buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// again reads or writes, whatever signals the runtime sends itself meanwhile.
func again(call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// talkSCTP has messages of many sizes, some larger than a packet, sent back.
func talkSCTP(local netip.Addr, to netip.AddrPort) error {
	fd, err := sctpSocket(netip.AddrPortFrom(local, 0))
	if err != nil {
		return fmt.Errorf("bind %s: %w", local, err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sctpAddr(to)); err != nil {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	for size := 1; size < 20000; size = size*3 + 1 {
		message := bytes.Repeat([]byte{byte(size)}, size)
		if _, err := again(unix.Write, fd, message); err != nil {
			return fmt.Errorf("send %d bytes: %w", size, err)
		}
		var got []byte
		for buf := make([]byte, 1<<16); len(got) < size; {
			n, err := again(unix.Read, fd, buf)
			if err != nil || n == 0 {
				return fmt.Errorf("receive %d bytes, have %d: %w", size, len(got), err)
			}
			got = append(got, buf[:n]...)
		}
		if !bytes.Equal(got, message) {
			return fmt.Errorf("message of %d bytes came back as another", size)
		}
	}
	return nil
}

// TestSCTP talks SCTP to a Service whose port isn't its pods', by all ways: from
// a pod and from outside, to pods here and there, native and through the tunnel.
func TestSCTP(t *testing.T) {
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP); err != nil {
		t.Skipf("this kernel has no SCTP: %v", err)
	} else {
		unix.Close(fd)
	}
	for _, tunnelled := range []bool{false, true} {
		t.Run(fmt.Sprintf("tunnelled %v", tunnelled), func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) { testSCTP(t, tunnelled) })
		})
	}
}

func testSCTP(t *testing.T, tunnelled bool) {
	l := newLab(t, tunnelled)
	l.setServices(t)
	client := l.nodes[0].pods[0]
	for _, backend := range []*pod{l.nodes[0].pods[1], l.nodes[1].pods[0]} {
		backend.serveSCTP(t)
		for i, f := range families() {
			entries := l.entries(l.nodes[0], service.SCTP, i, f)
			for j := range entries {
				entries[j].Frontend.Port = sctpPort
				entries[j].Backends = []service.Backend{{Addr: netip.AddrPortFrom(backend.addrs[i], 8080)}}
			}
			l.nodes[0].set(t, entries...)
			for _, tt := range []struct {
				ns   *netlab.Namespace
				from netip.Addr
				to   string
			}{
				{client.ns, client.addrs[i], f.clusterIP},
				{l.client, netip.MustParseAddr(f.client), f.loadBalancer},
			} {
				to := netip.AddrPortFrom(netip.MustParseAddr(tt.to), sctpPort)
				if err := tt.ns.Do(func() error { return talkSCTP(tt.from, to) }); err != nil {
					t.Errorf("from %s to %s, served by %s: %v; drops: %s", tt.from, to, backend.addrs[i], err, l.drops(t))
				}
			}
		}
	}
}
