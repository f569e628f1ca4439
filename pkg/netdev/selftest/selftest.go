// SPDX-License-Identifier: Apache-2.0

// Package selftest sends packets of all kinds from node to node: UDP small and
// of the whole MTU, and TCP in bulk. It tells a network that loses large packets
// from a NIC that gets checksums wrong, and switches that offload off.
//
// Each node judges what it sends: the other answers without checksums, so that
// its own NIC can't spoil the result.
package selftest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Port is where nodes answer, UDP and TCP.
const Port = 7476

const (
	attempts   = 3
	patience   = 300 * time.Millisecond // for one answer
	bulk       = 256 << 10              // bytes by TCP
	bulkTime   = 2 * time.Second
	smallBytes = 64
	// headers of IP and UDP.
	headers4 = 20 + 8
	headers6 = 40 + 8
)

// Result is what got through to a node and back. Nil is well.
type Result struct {
	// Plain is a small packet without a checksum: without it there is nobody, and
	// the rest means nothing.
	Plain error
	// Small has a checksum, Full is of the whole MTU, Bulk is TCP.
	Small, Full, Bulk error
}

// Verdict says what is wrong.
type Verdict uint8

// The verdicts.
const (
	Well     Verdict = iota
	Absent           // nobody answers
	Checksum         // what needs a checksum doesn't arrive
	Large            // large packets don't arrive
	Stream           // TCP alone doesn't get through
)

// Judge tells what a result means.
func (r Result) Judge() Verdict {
	switch {
	case r.Plain != nil:
		return Absent
	case r.Small != nil:
		return Checksum
	case r.Full != nil:
		return Large
	case r.Bulk != nil:
		return Stream
	}
	return Well
}

// Probe tests the way from one of this node's addresses to another node's. Large
// packets are of mtu bytes.
func Probe(ctx context.Context, from, to netip.Addr, mtu int) (r Result) {
	payload := mtu - headers6
	if to.Is4() {
		payload = mtu - headers4
	}
	if r.Plain = ask(ctx, from, to, smallBytes, true); r.Plain != nil {
		return r
	}
	r.Small = ask(ctx, from, to, smallBytes, false)
	r.Full = ask(ctx, from, to, payload, false)
	r.Bulk = stream(ctx, from, to)
	return r
}

// ask sends a datagram of so many bytes until it is answered, some times.
func ask(ctx context.Context, from, to netip.Addr, size int, plain bool) error {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: whole}
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(to, Port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := control(conn, func(fd int) error { return noChecksum(fd, plain) }); err != nil {
		return err
	}
	out, in := make([]byte, size), make([]byte, size+1)
	for i := range attempts {
		binary.BigEndian.PutUint64(out, uint64(time.Now().UnixNano()))
		out[8] = byte(i)
		if _, err = conn.Write(out); err != nil {
			continue // refused: nobody listens
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		for {
			var n int
			if n, err = conn.Read(in); err != nil {
				break
			}
			if n == answerSize && string(in[:n]) == string(out[:n]) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%d bytes by UDP from %s to %s: %w", size, from, to, err)
}

// answerSize is how much of a datagram comes back: so that the way back doesn't
// matter, and nobody gains by asking in another's name.
const answerSize = 16

// stream sends bytes by TCP and waits until they were all counted.
func stream(ctx context.Context, from, to netip.Addr) error {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: bulkTime}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(to, Port).String())
	if err != nil {
		return fmt.Errorf("TCP from %s to %s: %w", from, to, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bulkTime))
	if _, err := conn.Write(make([]byte, bulk)); err != nil {
		return fmt.Errorf("%d bytes by TCP from %s to %s: %w", bulk, from, to, err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return fmt.Errorf("%d bytes by TCP from %s to %s: %w", bulk, from, to, err)
	}
	return nil
}

// whole keeps datagrams from being fragmented, whatever the path is said to bear.
func whole(_, _ string, c syscall.RawConn) error {
	return raw(c, func(fd int) error {
		return errors.Join(ignore6(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)),
			ignore4(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)))
	})
}

// The socket options of a family fail on the other's sockets.
func ignore4(err error) error {
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

func ignore6(err error) error { return ignore4(err) }

// noChecksum has a socket send, and take, datagrams without a checksum.
func noChecksum(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, value),
		ignore4(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, value)),
		ignore4(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)),
	)
}

// control calls f with a connection's descriptor.
func control(conn any, f func(fd int) error) error {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("connection without a descriptor")
	}
	c, err := s.SyscallConn()
	if err != nil {
		return err
	}
	return raw(c, f)
}

func raw(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}
