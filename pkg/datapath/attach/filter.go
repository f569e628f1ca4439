// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of linux/pkt_sched.h and linux/pkt_cls.h.
const (
	clsactHandle  = 0xffff0000
	clsactParent  = 0xfffffff1
	ingressParent = 0xfffffff2
	egressParent  = 0xfffffff3

	tcaKind, tcaOptions = 1, 2

	tcaBPFFD, tcaBPFName, tcaBPFFlags = 6, 7, 8
	bpfDirectAction                   = 1

	// Handle 1 is every other tool's: this one replaces none of theirs. The kernel
	// runs the newest of a priority first.
	filterHandle = 20546
	filterPrio   = 1
	protocolAll  = 0x0300 // ETH_P_ALL in wire order
)

// Filters attaches programs to devices as tc filters of a clsact qdisc. Pods'
// devices get these and not links, since a tcx attach waits for RCU (6–16 ms
// measured, RTNL held) and a filter takes 0.2 ms; NICs get them where the
// kernel has no tcx (below 6.6).
type Filters struct{ conn *netlink.Conn }

// NewFilters opens a socket in the caller's network namespace.
func NewFilters() (*Filters, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Filters{conn: conn}, nil
}

// Close closes the socket; filters stay.
func (f *Filters) Close() error { return f.conn.Close() }

// Attach makes prog the filter of a hook, replacing in place (one pointer,
// RCU) what an earlier call put there.
func (f *Filters) Attach(hook Hook, prog *ebpf.Program) error {
	err := f.request(unix.RTM_NEWQDISC, netlink.Create|netlink.Excl,
		tcMessage{index: hook.IfIndex, handle: clsactHandle, parent: clsactParent}, kind("clsact"))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to interface %d: %w", hook.IfIndex, err)
	}
	err = f.request(unix.RTM_NEWTFILTER, netlink.Create|netlink.Replace, hook.filter(), func(e *netlink.AttributeEncoder) {
		kind("bpf")(e)
		e.Nested(tcaOptions, func(e *netlink.AttributeEncoder) error {
			e.Uint32(tcaBPFFD, uint32(prog.FD()))
			e.String(tcaBPFName, "patchbay")
			e.Uint32(tcaBPFFlags, bpfDirectAction)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("add filter to interface %d: %w", hook.IfIndex, err)
	}
	return nil
}

// Detach removes our filters from a device, and the qdisc if nothing else
// hangs on it. A device that is gone is no error.
func (f *Filters) Detach(ifindex int) error {
	for _, egress := range []bool{false, true} {
		err := f.request(unix.RTM_DELTFILTER, 0, Hook{ifindex, egress}.filter(), kind("bpf"))
		if err != nil && !gone(err) {
			return fmt.Errorf("delete filter of interface %d: %w", ifindex, err)
		}
	}
	for _, parent := range []uint32{ingressParent, egressParent} {
		others, err := f.count(ifindex, parent)
		if gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list filters of interface %d: %w", ifindex, err)
		}
		if others > 0 {
			return nil
		}
	}
	err := f.request(unix.RTM_DELQDISC, 0,
		tcMessage{index: ifindex, handle: clsactHandle, parent: clsactParent}, kind("clsact"))
	if err != nil && !gone(err) {
		return fmt.Errorf("delete clsact of interface %d: %w", ifindex, err)
	}
	return nil
}

// NoDevice tells whether err says that the device is gone.
func NoDevice(err error) bool { return errors.Is(err, unix.ENODEV) }

func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

func (f *Filters) count(ifindex int, parent uint32) (int, error) {
	msgs, err := f.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETTFILTER, Flags: netlink.Request | netlink.Dump},
		Data:   tcMessage{index: ifindex, parent: parent}.bytes(),
	})
	return len(msgs), err
}

func (f *Filters) request(typ netlink.HeaderType, flags netlink.HeaderFlags, msg tcMessage, attrs func(*netlink.AttributeEncoder)) error {
	e := netlink.NewAttributeEncoder()
	attrs(e)
	data, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = f.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(msg.bytes(), data...),
	})
	return err
}

func kind(name string) func(*netlink.AttributeEncoder) {
	return func(e *netlink.AttributeEncoder) { e.String(tcaKind, name) }
}

func (h Hook) filter() tcMessage {
	m := tcMessage{index: h.IfIndex, handle: filterHandle, parent: ingressParent, info: filterPrio<<16 | protocolAll}
	if h.Egress {
		m.parent = egressParent
	}
	return m
}

// tcMessage is struct tcmsg.
type tcMessage struct {
	index                int
	handle, parent, info uint32
}

func (m tcMessage) bytes() []byte {
	b := make([]byte, 4, 20) // tcm_family, padding
	for _, v := range []uint32{uint32(m.index), m.handle, m.parent, m.info} {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	return b
}
