// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// address is an address of a link as the kernel tells it, so that a copy has all
// of it: netlink.Addr lacks the metric of the route that comes with an address.
type address struct {
	nl.IfAddrmsg
	attrs map[uint16][]byte
}

// addresses lists those of a link, without those that the kernel makes for itself.
func addresses(link netlink.Link) ([]address, error) {
	messages, err := netdev.Dump(func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	var out []address
	for _, m := range messages {
		a := address{IfAddrmsg: *nl.DeserializeIfAddrmsg(m), attrs: map[uint16][]byte{}}
		attrs, err := nl.ParseRouteAttr(m[a.Len():])
		if err != nil {
			return nil, fmt.Errorf("read addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, attr := range attrs {
			a.attrs[attr.Attr.Type] = attr.Value
		}
		if int(a.Index) == link.Attrs().Index && !a.linkLocal() {
			out = append(out, a)
		}
	}
	return out, nil
}

// prefix is what the address itself, or its peer, is in.
func (a address) prefix() netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.attrs[unix.IFA_ADDRESS])
	return netip.PrefixFrom(ip, int(a.Prefixlen))
}

// local is the device's own end.
func (a address) local() netip.Addr {
	if ip, ok := netip.AddrFromSlice(a.attrs[unix.IFA_LOCAL]); ok {
		return ip
	}
	return a.prefix().Addr()
}

func (a address) linkLocal() bool {
	return a.Scope == unix.RT_SCOPE_LINK && a.local().Is6() && a.local().IsLinkLocalUnicast()
}

func (a address) flags() uint32 {
	if b := a.attrs[unix.IFA_FLAGS]; len(b) == 4 {
		return binary.NativeEndian.Uint32(b)
	}
	return uint32(a.Flags)
}

// metric is that of the routes which the kernel makes for the address.
func (a address) metric() int {
	if b := a.attrs[unix.IFA_RT_PRIORITY]; len(b) == 4 {
		return int(binary.NativeEndian.Uint32(b))
	}
	if a.Family == unix.AF_INET6 {
		return 256
	}
	return 0
}

// makes tells whether the kernel makes a route for the address by itself: not if
// whoever added it said that he would, as NetworkManager does.
func (a address) makes(r netlink.Route) bool {
	if a.flags()&unix.IFA_F_NOPREFIXROUTE != 0 || r.Dst == nil || r.Priority != a.metric() {
		return false
	}
	ip, _ := netip.AddrFromSlice(r.Dst.IP)
	return a.prefix().Contains(ip.Unmap()) || a.local() == ip.Unmap()
}

// same tells whether both are one address, whatever they are on.
func (a address) same(b address) bool { return a.local() == b.local() && a.prefix() == b.prefix() }

// keptFlags are the address flags that a copy keeps.
const keptFlags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MANAGETEMPADDR

// keptAttrs are the attributes that a copy keeps. A label names the link.
func keptAttrs() []uint16 {
	return []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, unix.IFA_CACHEINFO, unix.IFA_RT_PRIORITY}
}

// addTo gives a link the address too.
func (a address) addTo(link netlink.Link) error {
	flags := a.flags() & keptFlags
	if a.Family == unix.AF_INET6 {
		flags |= unix.IFA_F_NODAD // it is ours already
	}
	if err := a.request(link, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, flags); err != nil {
		return fmt.Errorf("add address %s to %s: %w", a.prefix(), link.Attrs().Name, err)
	}
	return nil
}

// dropFrom takes the address from a link.
func (a address) dropFrom(link netlink.Link) error {
	if err := a.request(link, unix.RTM_DELADDR, 0, 0); err != nil {
		return fmt.Errorf("remove address %s from %s: %w", a.prefix(), link.Attrs().Name, err)
	}
	return nil
}

func (a address) request(link netlink.Link, kind, how int, flags uint32) error {
	request := nl.NewNetlinkRequest(kind, how|unix.NLM_F_ACK)
	head := a.IfAddrmsg
	head.Index, head.Flags = uint32(link.Attrs().Index), 0
	request.AddData(&head)
	request.AddData(nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags)))
	for _, kind := range keptAttrs() {
		if value, ok := a.attrs[kind]; ok {
			request.AddData(nl.NewRtAttr(int(kind), value))
		}
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// copyAddrs gives one link the other's addresses too, and returns those that it lacked.
func copyAddrs(from, to netlink.Link) (added []address, err error) {
	theirs, err := addresses(from)
	if err != nil {
		return nil, err
	}
	own, err := addresses(to)
	if err != nil {
		return nil, err
	}
	for _, a := range theirs {
		if err := a.addTo(to); err != nil {
			return added, err
		}
		if !slices.ContainsFunc(own, a.same) {
			added = append(added, a)
		}
	}
	return added, nil
}
