// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// ErrInUse is matched by Create's error if a machine on the switch has one of the
// addresses.
var ErrInUse = errors.New("address is in use on the switch")

// InUseError names the address and the machine; it matches ErrInUse.
type InUseError struct {
	Addr netip.Addr
	MAC  [6]byte
}

// Error names both.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%v: %s, by %s", ErrInUse, e.Addr, net.HardwareAddr(e.MAC[:]))
}

// Unwrap returns ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// How the addresses are probed: three probes as RFC 5227 wants, but in less than a
// second. The machine that asks waits, and a leg doesn't hang on a switch that is
// still learning its ports, for which the RFC's seconds are.
const (
	probes        = 3
	probeInterval = 200 * time.Millisecond
)

// probe asks on a bridge who has the addresses.
func probe(bridge *net.Interface, addrs []netip.Prefix) error {
	fd, err := openPacket(bridge.Index)
	if err != nil {
		return fmt.Errorf("open socket on %s: %w", bridge.Name, err)
	}
	defer unix.Close(fd)
	for range probes {
		for _, a := range addrs {
			to := unix.SockaddrLinklayer{Ifindex: bridge.Index, Halen: 6}
			if err := unix.Sendto(fd, frame.Probe(a.Addr(), [6]byte(bridge.HardwareAddr)), 0, &to); err != nil {
				return fmt.Errorf("probe %s on %s: %w", a.Addr(), bridge.Name, err)
			}
		}
		if err := answered(fd, addrs, time.Now().Add(probeInterval)); err != nil {
			return err
		}
	}
	return nil
}

// answered reads until a deadline, or until somebody claims one of the addresses.
func answered(fd int, addrs []netip.Prefix, deadline time.Time) error {
	buf := make([]byte, 256)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for answers: %w", err)
		}
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue // none yet
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		seen, ok := frame.Parse(buf[:n])
		for _, a := range addrs {
			if ok && !seen.Probe && seen.Addr == a.Addr() {
				return &InUseError{a.Addr(), seen.MAC}
			}
		}
	}
}

// openPacket opens a socket for all frames of a link, groups that nobody here is a
// member of included.
func openPacket(index int) (int, error) {
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in wire order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
