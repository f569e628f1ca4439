// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// newPeers makes the map as the hooks have it.
func newPeers(t *testing.T) *ebpf.Map {
	t.Helper()
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(spec.Maps["sock_peers"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// connect connects a UDP socket to a backend, as if for a frontend.
func connect(t *testing.T, peers *ebpf.Map, frontend, backend netip.AddrPort) int {
	t.Helper()
	domain, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(backend.Port())})
	if backend.Addr().Is6() {
		domain, addr = unix.AF_INET6, &unix.SockaddrInet6{Addr: backend.Addr().As16(), Port: int(backend.Port())}
	} else {
		addr.(*unix.SockaddrInet4).Addr = backend.Addr().As4()
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, addr); err != nil {
		t.Fatal(err)
	}
	if !frontend.IsValid() {
		return fd
	}
	err = peers.Put(uint32(fd), objects.MapSockPeer{
		Frontend: objects.Addr(frontend.Addr()), FrontendPort: objects.Port(frontend.Port()),
		Backend: objects.Addr(backend.Addr()), BackendPort: objects.Port(backend.Port()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestDestroy(t *testing.T) {
	ns := netlab.New(t)
	peers := newPeers(t)
	at := netip.MustParseAddrPort
	ns.Run(t, func() {
		for _, tt := range []struct{ frontend, other, backend, living string }{
			{"10.96.0.1:53", "10.96.0.2:53", "127.0.0.1:5353", "127.0.0.2:5353"},
			{"[fd00:96::1]:53", "[fd00:96::2]:53", "[::1]:5353", "[::1]:5354"},
		} {
			ended := connect(t, peers, at(tt.frontend), at(tt.backend))
			stay := []int{
				connect(t, peers, at(tt.frontend), at(tt.living)),
				connect(t, peers, at(tt.other), at(tt.backend)),
				connect(t, peers, netip.AddrPort{}, at(tt.backend)),
			}
			cookies, err := Find(peers, func(frontend, backend netip.AddrPort) bool {
				return frontend == at(tt.frontend) && backend == at(tt.backend)
			})
			if err != nil || len(cookies) != 1 {
				t.Fatalf("%s: found %v, %v, want one socket", tt.frontend, cookies, err)
			}
			n, err := Open("")
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			count, err := n.Destroy(cookies)
			if count != 1 || err != nil {
				t.Errorf("%s: ended %d, %v, want 1", tt.frontend, count, err)
			}
			if _, err := unix.Write(ended, []byte("?")); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EDESTADDRREQ) {
				t.Errorf("%s: send on the socket that ended: %v", tt.frontend, err)
			}
			for i, fd := range stay {
				if _, err := unix.Getpeername(fd); err != nil {
					t.Errorf("%s: socket %d, which stays: %v", tt.frontend, i, err)
				}
			}
		}
	})
}
