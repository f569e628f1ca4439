// SPDX-License-Identifier: Apache-2.0

// Package veth makes veth pairs whose other end is born in its own namespace. It
// speaks netlink by itself: the library's way would link the attributes of
// every kind of link into a CNI binary.
package veth

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev/rtnl"
)

// ErrExists is matched by Create's error if one of the ends has a name that is
// taken in its namespace.
var ErrExists = errors.New("link exists already")

// Pair is a veth as it is wanted. This end is set up, unless Down; the peer
// never is, the kernel refuses that before both are there.
type Pair struct {
	Name   string // the end in this namespace
	MAC    [6]byte
	MTU    int // of both ends; zero: the kernel's
	Master int // index of the bridge that this end is a port of; zero: none
	Down   bool
	Peer   Peer
}

// Peer is the end in the other namespace.
type Peer struct {
	Name  string
	MAC   [6]byte
	Netns int // a descriptor of the namespace
}

// Create makes the pair. A zero MAC lets the kernel choose.
func Create(p Pair) error {
	conn, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	if !p.Down {
		info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	}
	body := info.Serialize()
	for _, a := range p.attributes() {
		body = append(body, a.Serialize()...)
	}
	err = conn.Do(rtnl.Raw(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, fmt.Sprintf("create veth %s to %s", p.Name, p.Peer.Name)))
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("create veth %s to %s: %w", p.Name, p.Peer.Name, ErrExists)
	}
	return err
}

func (p Pair) attributes() []*nl.RtAttr {
	attrs := common(p.Name, p.MAC, p.MTU)
	if p.Master != 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.Master))))
	}
	link := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	link.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := link.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range common(p.Peer.Name, p.Peer.MAC, p.MTU) {
		peer.AddChild(a)
	}
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.Peer.Netns)))
	return append(attrs, link)
}

// common returns the attributes that both ends have.
func common(name string, mac [6]byte, mtu int) []*nl.RtAttr {
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))}
	if mac != [6]byte{} {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]))
	}
	if mtu != 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	return attrs
}
