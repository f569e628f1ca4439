// SPDX-License-Identifier: Apache-2.0

// Package rtnl sends the kernel several requests about links, addresses, routes
// and neighbours in one message, and waits for one answer. It is what a CNI
// binary does dozens of at each pod: a socket that blocks, on the caller's thread,
// spares it the runtime's poller, whose wake-ups cost more than the requests.
//
//	conn, err := rtnl.Open()
//	defer conn.Close()
//	err = conn.Do(rtnl.LinkUp(index), rtnl.AddAddr(index, prefix))
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds the wait for an answer. The kernel answers before it lets go of
// the sender, as a rule.
const patience = 10 * time.Second

// Conn is a socket in the namespace that it was opened in. Not safe for
// concurrent use.
type Conn struct {
	fd  int
	seq uint32
}

// Open opens a socket in the thread's namespace.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink: %w", err), unix.Close(fd))
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Request is one thing that is asked of the kernel.
type Request struct {
	kind, flags uint16
	body        []byte
	what        string // for people
}

// Do sends the requests, in order, and returns the errors of those that failed.
// One that fails doesn't keep the others from being done.
func (c *Conn) Do(requests ...Request) error {
	var message []byte
	first := c.seq + 1
	for i, r := range requests {
		c.seq++
		flags := r.flags | unix.NLM_F_REQUEST
		if i == len(requests)-1 {
			flags |= unix.NLM_F_ACK // the others answer only if they fail
		}
		message = appendHeader(message, r.kind, flags, c.seq, len(r.body))
		message = append(message, r.body...)
	}
	if len(requests) == 0 {
		return nil
	}
	if err := unix.Sendto(c.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	var errs []error
	buf := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("receive from netlink: %w", err))...)
		}
		for h, body := range messages(buf[:n]) {
			if h.kind != unix.NLMSG_ERROR || len(body) < 4 || h.seq < first || h.seq > c.seq {
				continue
			}
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				errs = append(errs, fmt.Errorf("%s: %w", requests[h.seq-first].what, unix.Errno(errno)))
			}
			if h.seq == c.seq {
				return errors.Join(errs...)
			}
		}
	}
}

const headerLen = unix.NLMSG_HDRLEN

func appendHeader(out []byte, kind, flags uint16, seq uint32, body int) []byte {
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	out = binary.NativeEndian.AppendUint32(out, uint32(headerLen+body))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = binary.NativeEndian.AppendUint16(out, flags)
	out = binary.NativeEndian.AppendUint32(out, seq)
	return binary.NativeEndian.AppendUint32(out, 0)
}

// header is what of a message's is looked at.
type header struct {
	kind uint16
	seq  uint32
}

// messages goes over the messages of a datagram.
func messages(b []byte) func(func(header, []byte) bool) {
	return func(yield func(header, []byte) bool) {
		for len(b) >= headerLen {
			size := int(binary.NativeEndian.Uint32(b))
			if size < headerLen || size > len(b) {
				return
			}
			h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])}
			if !yield(h, b[headerLen:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// attr appends an attribute.
func attr(out []byte, kind uint16, value []byte) []byte {
	out = binary.NativeEndian.AppendUint16(out, uint16(4+len(value)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Raw is a request that the caller has put together.
func Raw(kind, flags uint16, body []byte, what string) Request {
	return Request{kind: kind, flags: flags, body: body, what: what}
}

// LinkUp sets a link up.
func LinkUp(index int) Request {
	body := linkMessage(index)
	binary.NativeEndian.PutUint32(body[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], unix.IFF_UP)
	return Request{kind: unix.RTM_NEWLINK, body: body, what: fmt.Sprintf("set link %d up", index)}
}

func linkMessage(index int) []byte {
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	return body
}

// AddAddr gives a link an address, which is known to be nobody else's. One that it
// has already is no error.
func AddAddr(index int, p netip.Prefix) Request {
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1] = family(p.Addr()), byte(p.Bits())
	if p.Addr().Is6() {
		body[2] = unix.IFA_F_NODAD
	}
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	raw := p.Addr().AsSlice()
	body = attr(attr(body, unix.IFA_LOCAL, raw), unix.IFA_ADDRESS, raw)
	return Request{kind: unix.RTM_NEWADDR, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body: body, what: fmt.Sprintf("add address %s to link %d", p, index)}
}

// SetNeighbour makes a neighbour that doesn't expire and isn't asked for.
func SetNeighbour(index int, a netip.Addr, mac [6]byte) Request {
	body := make([]byte, unix.SizeofNdMsg)
	body[0] = family(a)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	binary.NativeEndian.PutUint16(body[8:], unix.NUD_PERMANENT)
	body = attr(attr(body, unix.NDA_DST, a.AsSlice()), unix.NDA_LLADDR, mac[:])
	return Request{kind: unix.RTM_NEWNEIGH, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body: body, what: fmt.Sprintf("add neighbour %s on link %d", a, index)}
}

// Route is a route over a link.
type Route struct {
	Index    int
	Dst      netip.Prefix
	Via      netip.Addr // zero: on the link itself
	Protocol byte       // zero: boot
	Local    bool       // the destination is this machine, in the table of such
}

// SetRoute makes a route, in place of one to the same destination.
func SetRoute(r Route) Request {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(r.Dst.Addr()), byte(r.Dst.Bits())
	body[4], body[5], body[6], body[7] = unix.RT_TABLE_MAIN, r.Protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	if r.Protocol == 0 {
		body[5] = unix.RTPROT_BOOT
	}
	switch {
	case r.Local:
		body[4], body[7] = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
	case !r.Via.IsValid():
		body[6] = unix.RT_SCOPE_LINK
	}
	if r.Dst.Bits() > 0 {
		body = attr(body, unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	if r.Via.IsValid() {
		body = attr(body, unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	body = attr(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(r.Index)))
	return Request{kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body: body, what: fmt.Sprintf("add route %s to link %d", r.Dst, r.Index)}
}

// Index returns the index of a link in the socket's namespace, and whether there is
// one. It waits for nobody.
func (c *Conn) Index(name string) (int, bool, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, false, fmt.Errorf("name %s: %w", name, err)
	}
	err = unix.IoctlIfreq(c.fd, unix.SIOCGIFINDEX, request)
	if errors.Is(err, unix.ENODEV) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find link %s: %w", name, err)
	}
	return int(request.Uint32()), true, nil
}

// OperUp asks the kernel for a link, and tells whether it is operational.
func (c *Conn) OperUp(index int) (bool, error) {
	c.seq++
	body := linkMessage(index)
	message := append(appendHeader(nil, unix.RTM_GETLINK, unix.NLM_F_REQUEST, c.seq, len(body)), body...)
	if err := unix.Sendto(c.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("send to netlink: %w", err)
	}
	buf := make([]byte, 16384)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("receive from netlink: %w", err)
		}
		for h, body := range messages(buf[:n]) {
			switch {
			case h.seq != c.seq:
			case h.kind == unix.NLMSG_ERROR && len(body) >= 4:
				return false, fmt.Errorf("find link %d: %w", index, unix.Errno(-int32(binary.NativeEndian.Uint32(body))))
			case h.kind == unix.RTM_NEWLINK:
				return operState(body) == operUp, nil
			}
		}
	}
}

const operUp = 6 // IF_OPER_UP

// operState reads a link's state.
func operState(body []byte) byte {
	const size = unix.SizeofIfInfomsg
	for b := body[min(size, len(body)):]; len(b) >= 4; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_OPERSTATE && n > 4 {
			return b[4]
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return 0
}
