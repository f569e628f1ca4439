// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// write sends to an address, nil: where the frame says, and never waits. What a
// NIC that is stuck doesn't take is lost: waiting for it would silence all others.
func write(conn syscall.Conn, b []byte, to unix.Sockaddr) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, to)
		return true
	})
	return errors.Join(err, sendErr)
}

// sockaddr is an address for a socket that is bound to its NIC, which is the
// zone of a link-local one.
func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if addr := to.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}
