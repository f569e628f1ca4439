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
// link resolver and all, a sixth of a CNI binary.
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
	conn := os.NewFile(uintptr(fd), path)
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// connect waits until the deadline where the listener's backlog is full. It
// leaves the descriptor ready for the runtime's poller.
func connect(fd int, path string, deadline time.Time) error {
	patience := syscall.NsecToTimeval(max(int64(time.Millisecond), int64(time.Until(deadline))))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &patience); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	for {
		err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if err == nil {
			return os.NewSyscallError("fcntl", syscall.SetNonblock(fd, true))
		}
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("connect", err)
		}
	}
}
