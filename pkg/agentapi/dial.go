// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// dial connects to a unix socket. It does so by system calls: net.Dial would
// link resolver and all, a sixth of a CNI binary. The socket blocks, with the
// deadline as its own time limit: waking by the runtime's poller takes a small
// program longer than the answer does.
func dial(ctx context.Context, path string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultTimeout)
	}
	if err := connect(fd, path, deadline); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// connect waits until the deadline where the listener's backlog is full.
func connect(fd int, path string, deadline time.Time) error {
	patience := syscall.NsecToTimeval(max(int64(time.Millisecond), int64(time.Until(deadline))))
	for _, option := range []int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &patience); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	for {
		err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("connect", err)
		}
	}
}

// hangUp ends a conversation from aside: whoever waits for the socket is told.
func hangUp(conn *os.File) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
	}
}
