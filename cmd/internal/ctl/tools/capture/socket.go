// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// source is a packet socket on one device.
type source struct{ fd int }

// receiveBuffer is asked of the kernel for bursts.
const receiveBuffer = 8 << 20

// open opens a socket on each device: before the first packet is read, so that
// all begin together.
func open(o Options) (sources []*source, err error) {
	if o.OnlyLost {
		return nil, nil
	}
	defer func() {
		if err != nil {
			for _, s := range sources {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	for _, d := range o.Devices {
		s, err := openSocket(d)
		if err != nil {
			return sources, fmt.Errorf("capture on %s: %w", d.Name, err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func openSocket(d Device) (*source, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // a smaller one does, too
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: d.Index}), // ETH_P_ALL in wire order
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &source{fd}, nil
}

// Close closes the socket.
func (s *source) Close() error { return unix.Close(s.fd) }

// missed is how many packets the kernel had no room for.
func (s *source) missed() int {
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return int(stats.Drops)
}

// longest is the largest packet that a device can bring: one that is yet to be
// cut into pieces.
const longest = 1 << 18

// run reads packets until ctx ends.
func (s *source) run(ctx context.Context, device int, o Options, packets chan<- seen) error {
	buf, oob := make([]byte, longest), make([]byte, 256)
	for ctx.Err() == nil {
		n, oobn, _, from, err := unix.Recvmsg(s.fd, buf, oob, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("capture on %s: %w", o.Devices[device].Name, err)
		case !o.Filter.Match(buf[:n]):
			continue
		}
		p := seen{device: device, time: stamp(oob[:oobn]), length: n, data: slices.Clone(buf[:n])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.out = ll.Pkttype == unix.PACKET_OUTGOING
		}
		select {
		case packets <- p:
		case <-ctx.Done():
		}
	}
	return nil
}

// stamp is the kernel's time of a packet.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		var ts unix.Timespec
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(ts)) {
			if _, err := binary.Decode(m.Data, binary.NativeEndian, &ts); err == nil {
				return time.Unix(ts.Unix())
			}
		}
	}
	return time.Now()
}
