// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// wire is one NIC, open for the frames that say something of the addresses in
// one prefix.
type wire interface {
	Link() int
	MAC() [6]byte
	Send(frame []byte) error
	// Sightings is closed when the NIC is gone.
	Sightings() <-chan frame.Sighting
	Close() error
}

// opener opens a NIC for a prefix. To be asked for an IPv6 address like one who
// has it, its group is joined.
type opener func(link int, prefix netip.Prefix, join ...netip.Addr) (wire, error)

// socket is a wire of a real NIC.
type socket struct {
	link   int
	mac    [6]byte
	conn   *packet.Conn
	groups []int // sockets that are in groups
	seen   chan frame.Sighting
	done   chan struct{}
}

// backlog is how many sightings wait for their reader.
const backlog = 256

func openSocket(link int, prefix netip.Prefix, join ...netip.Addr) (wire, error) {
	nic, err := net.InterfaceByIndex(link)
	if err != nil {
		return nil, fmt.Errorf("open link %d: %w", link, err)
	}
	if len(nic.HardwareAddr) != 6 {
		return nil, fmt.Errorf("open %s: it has no Ethernet address", nic.Name)
	}
	filter, err := frame.Filter(prefix)
	if err != nil {
		return nil, fmt.Errorf("assemble filter for %s: %w", prefix, err)
	}
	protocol := frame.EtherARP
	if prefix.Addr().Is6() {
		protocol = frame.EtherIPv6
	}
	groups, err := joinGroups(link, join)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", nic.Name, err)
	}
	conn, err := packet.Listen(nic, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", nic.Name, err), closeGroups(groups))
	}
	s := &socket{link, [6]byte(nic.HardwareAddr), conn, groups, make(chan frame.Sighting, backlog), make(chan struct{})}
	go s.read()
	return s, nil
}

// groupsPerSocket is how many groups one socket is in: the memory that older
// kernels let it have (net.core.optmem_max of 20 KiB) is enough for some 360.
const groupsPerSocket = 256

// joinGroups makes sockets that are in the solicited-node groups of the IPv6
// addresses: switches forward them, and the NIC takes them in.
func joinGroups(link int, addrs []netip.Addr) (fds []int, err error) {
	joined := map[netip.Addr]bool{} // two addresses may be of one group
	for _, addr := range addrs {
		group := frame.SolicitedNode(addr)
		if addr.Is4() || joined[group] {
			continue
		}
		if len(joined)%groupsPerSocket == 0 {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("open socket for groups: %w", err), closeGroups(fds))
			}
			fds = append(fds, fd)
		}
		joined[group] = true
		mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(link)}
		if err := unix.SetsockoptIPv6Mreq(fds[len(fds)-1], unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq); err != nil {
			return nil, errors.Join(fmt.Errorf("join %s: %w", group, err), closeGroups(fds))
		}
	}
	return fds, nil
}

func closeGroups(fds []int) error {
	var errs []error
	for _, fd := range fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// read passes on what the NIC hears until it is closed.
func (s *socket) read() {
	defer close(s.seen)
	b := make([]byte, 2048)
	for {
		n, _, err := s.conn.ReadFrom(b)
		if err != nil {
			if errors.Is(err, unix.ENETDOWN) {
				continue // it may come up again
			}
			return
		}
		sighting, ok := frame.Parse(b[:n])
		if !ok || sighting.MAC == s.mac {
			continue
		}
		select {
		case s.seen <- sighting:
		case <-s.done:
			return
		}
	}
}

func (s *socket) Link() int { return s.link }

func (s *socket) MAC() [6]byte { return s.mac }

func (s *socket) Sightings() <-chan frame.Sighting { return s.seen }

func (s *socket) Send(b []byte) error {
	_, err := s.conn.WriteTo(b, &packet.Addr{HardwareAddr: b[:6]})
	return err
}

func (s *socket) Close() error {
	close(s.done)
	return errors.Join(s.conn.Close(), closeGroups(s.groups))
}
