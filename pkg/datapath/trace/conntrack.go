// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// connection is one that the kernel masquerades: the pod's end of it, and the
// node's, which the world outside knows.
type connection struct{ pod, node, world netip.AddrPort }

// masqueraded finds the connection that a packet is of, in either direction.
func (t *Tracer) masqueraded(h headers.Header) (c connection, answer, ok bool, err error) {
	family := netlink.InetFamily(afInet)
	if h.Src.Addr().Is6() {
		family = afInet6
	}
	flows, err := netdev.Dump(func() ([]*netlink.ConntrackFlow, error) {
		return netlink.ConntrackTableList(netlink.ConntrackTable, family)
	})
	if err != nil {
		return c, false, false, fmt.Errorf("list the kernel's connections: %w", err)
	}
	for _, f := range flows {
		if f.Forward.Protocol != uint8(h.Proto) {
			continue
		}
		c := connection{
			pod: peerOf(f.Forward.SrcIP, f.Forward.SrcPort), node: peerOf(f.Reverse.DstIP, f.Reverse.DstPort), world: peerOf(f.Forward.DstIP, f.Forward.DstPort),
		}
		switch {
		case c.pod == c.node:
		case h.Src == c.pod && h.Dst == c.world:
			return c, false, true, nil
		case h.Src == c.world && h.Dst == c.node:
			return c, true, true, nil
		}
	}
	return c, false, false, nil
}

func peerOf(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
