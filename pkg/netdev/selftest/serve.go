// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Serve answers other nodes until ctx ends. Known says who may ask.
func Serve(ctx context.Context, known func(netip.Addr) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return answer(ctx, known) })
	group.Go(func() error { return count(ctx, known) })
	return group.Wait()
}

// firstPort is the first that one who asks may have.
const firstPort = 1024

// answer sends the beginning of each datagram back the way it came, without a checksum.
func answer(ctx context.Context, known func(netip.Addr) bool) error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: Port})
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := control(conn, func(fd int) error { return errors.Join(noChecksum(fd, true), tellWay(fd)) }); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	way := make([]byte, 128)
	for buffer := make([]byte, 1<<16); ; {
		n, told, _, from, err := conn.ReadMsgUDPAddrPort(buffer, way)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("self-test: %w", err)
		case err != nil || n < answerSize || from.Port() == Port || from.Port() < firstPort || !known(from.Addr().Unmap()):
			continue // no server's port is answered: two that answer each other never end
		}
		_, _, _ = conn.WriteMsgUDPAddrPort(buffer[:answerSize], way[:told], from) // who asked asks again
	}
}

// tellWay has a socket tell the interface and the address that datagrams came to,
// in a form that sends the answer from there.
func tellWay(fd int) error {
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1),
		ignore4(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)))
}

// count takes what comes by TCP and says so when it was all there.
func count(ctx context.Context, known func(netip.Addr) bool) error {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", Port))
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil || !known(from.Addr().Unmap()) {
			conn.Close()
			continue
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(bulkTime))
			if _, err := io.CopyN(io.Discard, conn, bulk); err == nil {
				_, _ = conn.Write([]byte{1})
			}
		}()
	}
}
