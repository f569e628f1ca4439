// SPDX-License-Identifier: Apache-2.0

// Package sockets ends UDP sockets that are connected, through the socket hooks, to
// an endpoint that no longer serves: their datagrams go past all programs, so
// nothing else moves them. What the hooks keep with a socket (the map sock_peers)
// tells for which frontend it was connected; the kernel's socket diagnostics hand
// that out with each socket, one network namespace at a time.
//
// A kernel without CONFIG_INET_DIAG_DESTROY can't do it. There a socket stays
// until its owner connects it anew; it gets an error on sending if the endpoint's
// pod is gone, for its node says port unreachable.
package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// ErrNotSupported is returned where the kernel can't end sockets.
var ErrNotSupported = errors.New("the kernel can't end sockets (CONFIG_INET_DIAG_DESTROY)")

// Numbers of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	reqStorages = 2 // INET_DIAG_REQ_SK_BPF_STORAGES
	reqMapFD    = 1 // SK_DIAG_BPF_STORAGE_REQ_MAP_FD

	repStorages = 20 // INET_DIAG_SK_BPF_STORAGES
	repStorage  = 1  // SK_DIAG_BPF_STORAGE
	repMapValue = 3  // SK_DIAG_BPF_STORAGE_MAP_VALUE

	connected = 1 << 1 // TCP_ESTABLISHED, as a set of states
)

// request is struct inet_diag_req_v2.
type request struct {
	family, protocol, ext, _ uint8
	states                   uint32
	id                       identity
}

// identity is struct inet_diag_sockid.
type identity struct {
	sport, dport [2]byte
	src, dst     [16]byte
	ifindex      uint32
	cookie       [2]uint32
}

// message is struct inet_diag_msg.
type message struct {
	family, state, timer, retrans       uint8
	id                                  identity
	expires, rqueue, wqueue, uid, inode uint32
}

// Namespace is a network namespace whose sockets are looked at.
type Namespace struct{ conn *netlink.Conn }

// Open opens the namespace at a path; with an empty one, the caller's.
func Open(path string) (_ *Namespace, err error) {
	var config netlink.Config
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open network namespace: %w", err)
		}
		defer f.Close()
		config.NetNS = int(f.Fd())
	}
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &config)
	if err != nil {
		return nil, fmt.Errorf("open socket diagnostics of %s: %w", path, err)
	}
	return &Namespace{conn}, nil
}

// Close closes it.
func (n *Namespace) Close() error { return n.conn.Close() }

// Destroy ends the UDP sockets that are connected to a backend for a frontend that
// doomed says it of, and returns how many. Their owners get ECONNABORTED. peers is
// the map sock_peers.
func (n *Namespace) Destroy(peers *ebpf.Map, doomed func(frontend, backend netip.AddrPort) bool) (int, error) {
	destroyed := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := n.list(family, peers)
		if err != nil {
			return destroyed, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, msg := range msgs {
			id, peer, ok := read(msg.Data)
			if !ok || peer.BackendPort == 0 {
				continue
			}
			backend := netip.AddrPortFrom(peer.Backend.Netip(), objects.Port(peer.BackendPort))
			frontend := netip.AddrPortFrom(peer.Frontend.Netip(), objects.Port(peer.FrontendPort))
			if id.remote(family) != backend || !doomed(frontend, backend) {
				continue
			}
			switch err := n.destroy(family, id); {
			case err == nil:
				destroyed++
			case errors.Is(err, unix.EOPNOTSUPP):
				return destroyed, ErrNotSupported
			case !errors.Is(err, unix.ENOENT): // else it ended by itself
				return destroyed, fmt.Errorf("end UDP socket to %s: %w", backend, err)
			}
		}
	}
	return destroyed, nil
}

func (n *Namespace) list(family uint8, peers *ebpf.Map) ([]netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	e.Nested(reqStorages, func(e *netlink.AttributeEncoder) error {
		e.Uint32(reqMapFD, uint32(peers.FD()))
		return nil
	})
	attrs, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   append(newRequest(family, identity{}), attrs...),
	})
}

func (n *Namespace) destroy(family uint8, id identity) error {
	_, err := n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   newRequest(family, id),
	})
	return err
}

func newRequest(family uint8, id identity) []byte {
	r := request{family: family, protocol: unix.IPPROTO_UDP, states: connected, id: id}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))...)
}

// remote is whom the socket is connected to.
func (id identity) remote(family uint8) netip.AddrPort {
	addr := netip.AddrFrom16(id.dst)
	if family == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(id.dst[:4]))
	}
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(id.dport[:]))
}

// read takes apart what the kernel says of a socket: who it is, and what the
// hooks keep with it, if anything.
func read(b []byte) (id identity, peer objects.MapSockPeer, ok bool) {
	const header = int(unsafe.Sizeof(message{}))
	if len(b) < header {
		return id, peer, false
	}
	id = (*message)(unsafe.Pointer(&b[0])).id
	d, err := netlink.NewAttributeDecoder(b[header:])
	if err != nil {
		return id, peer, false
	}
	for d.Next() {
		if d.Type() != repStorages {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				if d.Type() == repStorage {
					d.Nested(value(&peer, &ok))
				}
			}
			return nil
		})
	}
	return id, peer, ok && d.Err() == nil
}

func value(peer *objects.MapSockPeer, ok *bool) func(*netlink.AttributeDecoder) error {
	return func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			if b := d.Bytes(); d.Type() == repMapValue && len(b) == int(unsafe.Sizeof(*peer)) {
				*peer, *ok = *(*objects.MapSockPeer)(unsafe.Pointer(&b[0])), true
			}
		}
		return nil
	}
}
