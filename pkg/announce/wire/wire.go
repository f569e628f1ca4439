// SPDX-License-Identifier: Apache-2.0

// Package wire is the sockets of announce: a UDP socket per NIC for heartbeats,
// and raw ones for the frames by which kernels are asked and addresses claimed.
// Each is bound to its NIC: what is sent goes out there whatever the routes say.
package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// Wire is the sockets of all NICs. Make one with New; it is a
// heartbeat.Transport.
type Wire struct {
	log  *slog.Logger
	port uint16

	mu    sync.Mutex
	hear  Hearer
	ports map[int]*port
}

// Hearer is told what comes in.
type Hearer interface {
	Receive(link int, from netip.AddrPort, to netip.Addr, packet []byte)
	Answered(link int, addr netip.Addr, mac [6]byte)
}

// port is one NIC's sockets. What is needed in a hurry is open from the start.
type port struct {
	link heartbeat.Link
	conn *net.UDPConn
	raw  map[int]*packet.Conn // by protocol: frames of it are heard
	out  *packet.Conn         // hears nothing
}

// New returns a wire without sockets.
func New(udpPort uint16, log *slog.Logger) *Wire {
	return &Wire{log: log, port: udpPort, ports: map[int]*port{}}
}

// Tell has what comes in told to h. It must be called before Set.
func (w *Wire) Tell(h Hearer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hear = h
}

// Set has sockets on exactly these NICs. Where one can't be opened yet, as its
// address isn't ready, the error says so and the next Set tries again.
func (w *Wire) Set(links []heartbeat.Link) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	named := map[int]bool{}
	for _, l := range links {
		named[l.Index] = true
		old := w.ports[l.Index]
		if old != nil && old.link.Addr == l.Addr && old.link.Name == l.Name && old.link.MAC == l.MAC {
			old.link = l
			continue
		}
		if old != nil {
			errs = append(errs, old.close())
			delete(w.ports, l.Index)
		}
		p, err := w.open(l)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.ports[l.Index] = p
	}
	for index, p := range w.ports {
		if !named[index] {
			errs = append(errs, p.close())
			delete(w.ports, index)
		}
	}
	return errors.Join(errs...)
}

// Close closes all sockets.
func (w *Wire) Close() error { return w.Set(nil) }

func (w *Wire) open(l heartbeat.Link) (*port, error) {
	network := "udp4"
	if l.Addr.Is6() {
		network = "udp6"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var bindErr error
		err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), l.Name) })
		return errors.Join(err, bindErr)
	}}
	conn, err := config.ListenPacket(context.Background(), network, netip.AddrPortFrom(l.Addr, w.port).String())
	if err != nil {
		return nil, fmt.Errorf("heartbeat on %s: %w", l.Name, err)
	}
	p := &port{link: l, conn: conn.(*net.UDPConn), raw: map[int]*packet.Conn{}}
	if err := w.openRaw(p); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", l.Name, err), p.close())
	}
	go w.read(p.conn, l.Index, l.Addr)
	return p, nil
}

// openRaw opens the sockets for claims, and for the answers of other kernels in
// the family of the NIC's address.
func (w *Wire) openRaw(p *port) error {
	nic, err := net.InterfaceByIndex(p.link.Index)
	if err != nil {
		return err
	}
	if p.out, err = packet.Listen(nic, packet.Raw, 0, nil); err != nil { // protocol 0: hears nothing
		return err
	}
	protocol := frame.EtherARP
	if p.link.Addr.Is6() {
		protocol = frame.EtherIPv6
	}
	_, err = w.listen(p, protocol)
	return err
}

func (p *port) close() error {
	errs := []error{p.conn.Close()}
	for _, c := range p.raw {
		errs = append(errs, c.Close())
	}
	if p.out != nil {
		errs = append(errs, p.out.Close())
	}
	return errors.Join(errs...)
}

// has tells whether a socket is still wanted.
func (w *Wire) has(it func(*port) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.ports {
		if it(p) {
			return true
		}
	}
	return false
}

// pause is the rest after a socket couldn't be read, as while its NIC is down.
const pause = 10 * time.Millisecond

// read hands packets on until the socket is closed.
func (w *Wire) read(conn *net.UDPConn, link int, to netip.Addr) {
	b := make([]byte, 64<<10) // questions and answers may be long
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		switch {
		case err != nil && !w.has(func(p *port) bool { return p.conn == conn }):
			return
		case err != nil:
			time.Sleep(pause) //nolint:forbidigo // no condition tells when the socket works again
		default:
			w.hear.Receive(link, from, to, b[:n])
		}
	}
}

// Send implements heartbeat.Transport.
func (w *Wire) Send(link int, _ netip.Addr, to netip.AddrPort, packet []byte) error {
	w.mu.Lock()
	p := w.ports[link]
	w.mu.Unlock()
	if p == nil {
		return fmt.Errorf("send on link %d: %w", link, errNotOpen)
	}
	return write(p.conn, packet, sockaddr(to))
}

var errNotOpen = errors.New("no socket is open")

// Enquire implements heartbeat.Transport.
func (w *Wire) Enquire(link int, addr netip.Addr, mac [6]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[link]
	if p == nil {
		return fmt.Errorf("ask on link %d: %w", link, errNotOpen)
	}
	protocol := frame.EtherIPv6
	question := frame.Request(addr, p.link.Addr, p.link.MAC)
	if addr.Is4() {
		protocol = frame.EtherARP
		if mac != ([6]byte{}) {
			copy(question, mac[:])
		}
	}
	return w.ask(p, protocol, question)
}

// ask sends a frame, with the answers' socket open.
func (w *Wire) ask(p *port, protocol int, question []byte) error {
	conn := p.raw[protocol]
	if conn == nil {
		var err error
		if conn, err = w.listen(p, protocol); err != nil {
			return fmt.Errorf("ask on %s: %w", p.link.Name, err)
		}
	}
	return write(conn, question, nil)
}

// listen opens a NIC for answers.
func (w *Wire) listen(p *port, protocol int) (*packet.Conn, error) {
	filter, err := answers(protocol)
	if err != nil {
		return nil, err
	}
	nic, err := net.InterfaceByIndex(p.link.Index)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(nic, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, err
	}
	p.raw[protocol] = conn
	go w.readRaw(conn, p.link.Index, protocol)
	return conn, nil
}

func (w *Wire) readRaw(conn *packet.Conn, link, protocol int) {
	b := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(b)
		switch {
		case err != nil && !w.has(func(p *port) bool { return p.raw[protocol] == conn }):
			return
		case err != nil:
			time.Sleep(pause) //nolint:forbidigo // no condition tells when the socket works again
		default:
			if addr, mac, ok := answerer(b[:n]); ok {
				w.hear.Answered(link, addr, mac)
			}
		}
	}
}

// Transmit sends frames out of a NIC.
func (w *Wire) Transmit(link int, frames [][]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[link]
	if p == nil {
		return fmt.Errorf("transmit on link %d: %w", link, errNotOpen)
	}
	var errs []error
	for _, f := range frames {
		if err := write(p.out, f, nil); err != nil {
			errs = append(errs, fmt.Errorf("transmit on %s: %w", p.link.Name, err))
		}
	}
	return errors.Join(errs...)
}
