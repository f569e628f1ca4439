// SPDX-License-Identifier: Apache-2.0

// Package watch tells when links, addresses, routes, neighbours or nftables
// rules of the current network namespace change. It says that something
// changed, never to what: who hears it looks anew.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Topic is what changed.
type Topic uint8

// The topics. Lost says that the kernel had more to tell than we could take:
// anything may have changed.
const (
	Links Topic = iota + 1 // links and their addresses
	Routes
	Neighbours
	Rules // nftables
	Lost
)

// Event is a change.
type Event struct {
	Topic Topic
	Link  int        // of Neighbours
	Addr  netip.Addr // of Neighbours
}

// Run calls emit, from several goroutines, for each change until ctx ends.
func Run(ctx context.Context, emit func(Event)) error {
	const route = unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return listen(ctx, unix.NETLINK_ROUTE, route, routeEvent, emit) })
	group.Go(func() error {
		return listen(ctx, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), ruleEvent, emit)
	})
	return group.Wait()
}

// listen receives from one kind of netlink socket.
func listen(ctx context.Context, protocol int, groups uint32, decode func(netlink.Message) (Event, bool), emit func(Event)) error {
	conn, err := netlink.Dial(protocol, &netlink.Config{Groups: groups})
	if err != nil {
		return fmt.Errorf("watch netlink %d: %w", protocol, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			emit(Event{Topic: Lost})
			continue
		case err != nil:
			return fmt.Errorf("watch netlink %d: %w", protocol, err)
		}
		for _, m := range messages {
			if ev, ok := decode(m); ok {
				emit(ev)
			}
		}
	}
}

// routeEvent decodes what NETLINK_ROUTE sends; changes that a pod's coming and
// going makes are not told.
func routeEvent(m netlink.Message) (Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return Event{Topic: Links}, !netdev.IsPodLink(attributeString(m.Data, unix.SizeofIfInfomsg, unix.IFLA_IFNAME))
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		const scopeAt = 3
		return Event{Topic: Links}, len(m.Data) < unix.SizeofIfAddrmsg || m.Data[scopeAt] != unix.RT_SCOPE_LINK
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return Event{Topic: Routes}, len(m.Data) < unix.SizeofRtMsg || !isUninteresting(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return neighbourEvent(m.Data)
	}
	return Event{}, false
}

// isUninteresting tells whether a route message is about one that we made, that
// came or went with a pod, or that the kernel has for each link. That one of
// ours to other nodes is gone must be told.
func isUninteresting(m netlink.Message) bool {
	const lengthAt, protocolAt, typeAt = 1, 5, 7
	if m.Data[typeAt] != unix.RTN_UNICAST {
		return true
	}
	dst, _ := netip.AddrFromSlice(attribute(m.Data, unix.SizeofRtMsg, unix.RTA_DST))
	switch m.Data[protocolAt] {
	case uint8(netdev.Protocol):
	case uint8(netdev.CustomProtocol):
		return m.Header.Type == unix.RTM_NEWROUTE
	default:
		return dst.IsLinkLocalUnicast() || dst.IsMulticast()
	}
	toPod := int(m.Data[lengthAt]) == dst.BitLen() && attribute(m.Data, unix.SizeofRtMsg, unix.RTA_GATEWAY) == nil
	return m.Header.Type == unix.RTM_NEWROUTE || toPod
}

// neighbourEvent decodes an ndmsg: family, link and the address.
func neighbourEvent(data []byte) (Event, bool) {
	if len(data) < unix.SizeofNdMsg {
		return Event{}, false
	}
	ev := Event{Topic: Neighbours, Link: int(binary.NativeEndian.Uint32(data[4:8]))}
	addr, ok := netip.AddrFromSlice(attribute(data, unix.SizeofNdMsg, unix.NDA_DST))
	ev.Addr = addr
	return ev, ok && (data[0] == unix.AF_INET || data[0] == unix.AF_INET6)
}

// ruleEvent tells of removals only: nobody else adds to our table.
func ruleEvent(m netlink.Message) (Event, bool) {
	switch uint16(m.Header.Type) & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET:
		return Event{Topic: Rules}, true
	}
	return Event{}, false
}

// attribute returns the attribute of that type behind a header of that size.
func attribute(data []byte, header int, kind uint16) []byte {
	if len(data) < header {
		return nil
	}
	attrs, err := netlink.UnmarshalAttributes(data[header:])
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Type == kind {
			return a.Data
		}
	}
	return nil
}

func attributeString(data []byte, header int, kind uint16) string {
	return strings.TrimRight(string(attribute(data, header, kind)), "\x00")
}
