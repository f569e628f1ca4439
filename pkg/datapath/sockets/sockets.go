// SPDX-License-Identifier: Apache-2.0

// Package sockets ends UDP sockets that are connected, through the socket hooks, to
// an endpoint that no longer serves: their datagrams go past all programs, so
// nothing else moves them. What the hooks keep with a socket (the map sock_peers)
// tells for which frontend it was connected: a program lists that, of all network
// namespaces at once. The sockets are ended by the kernel's socket diagnostics,
// which know them one namespace at a time.
//
//	cookies, err := sockets.Find(peers, doomed)
//	n, err := namespace.Destroy(cookies)
//
// A kernel without CONFIG_INET_DIAG_DESTROY can't do it. There a socket stays
// until its owner connects it anew; it gets an error on sending if the endpoint's
// pod is gone, for its node says port unreachable.
package sockets

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotSupported is returned where the kernel can't end sockets.
var ErrNotSupported = errors.New("the kernel can't end sockets (CONFIG_INET_DIAG_DESTROY)")

// Numbers of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

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

// Destroy ends the connected UDP sockets with these cookies, and returns how many
// there were. Their owners get ECONNABORTED.
func (n *Namespace) Destroy(cookies map[uint64]bool) (int, error) {
	destroyed := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := n.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   newRequest(family, identity{}),
		})
		if err != nil {
			return destroyed, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, msg := range msgs {
			if len(msg.Data) < int(unsafe.Sizeof(message{})) {
				continue
			}
			id := (*message)(unsafe.Pointer(&msg.Data[0])).id
			if !cookies[id.cookieValue()] {
				continue
			}
			switch err := n.destroy(family, id); {
			case err == nil:
				destroyed++
			case errors.Is(err, unix.EOPNOTSUPP):
				return destroyed, ErrNotSupported
			case !errors.Is(err, unix.ENOENT): // else it ended by itself
				return destroyed, fmt.Errorf("end UDP socket: %w", err)
			}
		}
	}
	return destroyed, nil
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

func (id identity) cookieValue() uint64 { return uint64(id.cookie[1])<<32 | uint64(id.cookie[0]) }
