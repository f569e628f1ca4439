// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Frame is one captured Ethernet frame.
type Frame struct {
	Data []byte
	// Outgoing tells a frame that left by the interface from one that came in.
	Outgoing bool
}

// Capture holds the frames seen on an interface from its start on.
type Capture struct {
	fd     int
	done   chan struct{}
	mu     sync.Mutex
	frames []Frame
}

// NewCapture captures on an interface, both ways, until the end of the test. An
// empty name means all interfaces of the namespace.
func NewCapture(tb TB, ns *Namespace, name string) *Capture {
	tb.Helper()
	c := &Capture{done: make(chan struct{})}
	index := 0
	if name != "" {
		index = ns.Index(tb, name)
	}
	err := ns.Do(func() (err error) {
		c.fd, err = openPacketSocket(index)
		return err
	})
	must(tb, err, "capture on %s", name)
	stop := make(chan struct{})
	go c.read(stop)
	tb.Cleanup(func() {
		close(stop)
		<-c.done
		unix.Close(c.fd)
	})
	return c
}

// openPacketSocket opens a packet socket that wakes its reader ten times a second.
func openPacketSocket(index int) (int, error) {
	all := uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// read keeps frames until stop is closed.
func (c *Capture) read(stop <-chan struct{}) {
	defer close(c.done)
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil {
			continue // the timeout, or the interface went down
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		frame := Frame{Data: slices.Clone(buf[:n]), Outgoing: ok && ll.Pkttype == unix.PACKET_OUTGOING}
		c.mu.Lock()
		c.frames = append(c.frames, frame)
		c.mu.Unlock()
	}
}

// Frames returns what was captured so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Count returns how many of the frames captured so far match.
func (c *Capture) Count(match func(Frame) bool) int {
	count := 0
	for _, f := range c.Frames() {
		if match(f) {
			count++
		}
	}
	return count
}
