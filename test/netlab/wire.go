// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Wire joins two namespaces by a veth pair, both ends up. It returns when the
// kernel has noticed the carrier, which IPv6 waits for.
func Wire(tb TB, a *Namespace, aName string, b *Namespace, bName string) {
	tb.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(a.FD()))
	must(tb, err, "open netlink")
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.FD())})
	must(tb, err, "wire %s to %s", aName, bName)
	a.Up(tb, aName)
	b.Up(tb, bName)
	a.waitRunning(tb, aName)
	b.waitRunning(tb, bName)
}

// waitRunning waits until a link is operational.
func (ns *Namespace) waitRunning(tb TB, name string) {
	tb.Helper()
	WaitFor(tb, 5*time.Second, "link "+name, func() error {
		var state netlink.LinkOperState
		ns.with(tb, name, func(_ *netlink.Handle, l netlink.Link) error {
			state = l.Attrs().OperState
			return nil
		})
		if state != netlink.OperUp {
			return fmt.Errorf("state is %v", state)
		}
		return nil
	})
}

// Switch is a bridge in a namespace of its own: one L2 segment.
type Switch struct {
	Net   *Namespace
	ports int
}

// bridgeName is the bridge's name inside a Switch's namespace.
const bridgeName = "br0"

// NewSwitch makes an L2 segment. It floods multicast and keeps frames out of netfilter.
func NewSwitch(tb TB) *Switch {
	tb.Helper()
	s := &Switch{Net: New(tb)}
	h := s.Net.Netlink(tb)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	snooping := false
	must(tb, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}), "make bridge")
	s.Net.Up(tb, bridgeName)
	return s
}

// Join plugs a new interface of a namespace into the switch and returns the name of the switch's port.
func (s *Switch) Join(tb TB, ns *Namespace, name string) string {
	tb.Helper()
	s.ports++
	port := fmt.Sprintf("p%d", s.ports)
	Wire(tb, s.Net, port, ns, name)
	s.Net.with(tb, port, func(h *netlink.Handle, l netlink.Link) error {
		br, err := h.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return h.LinkSetMaster(l, br)
	})
	return port
}
