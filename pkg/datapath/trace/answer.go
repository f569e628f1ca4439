// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// answer is what whom the packet has reached would answer, and whether it
// would.
func (w *walker) answer(p Packet, frame []byte) (Packet, bool) {
	end := w.walk.End
	h := headers.Read(end.Frame)
	if !h.Src.IsValid() || h.Later || p.Quote != nil || h.Flags&headers.RST != 0 || h.Dst.Addr().IsMulticast() {
		return Packet{}, false
	}
	a := Packet{Link: end.Link, Src: h.Dst, Dst: h.Src, Proto: h.Proto, SrcMAC: h.DstMAC, DstMAC: h.SrcMAC, Flags: headers.ACK}
	if h.Flags&(headers.SYN|headers.ACK) == headers.SYN {
		a.Flags = headers.SYN | headers.ACK
	}
	switch end.Kind {
	case EndPod:
		a.From = FromPod
	case EndNode:
		a.From = FromNode
	case EndTunnel:
		a.From, a.Node = FromTunnel, end.Hop
	case EndWire:
		a.From = FromNIC
		if mac, ok := w.neighbour(end); ok {
			a.SrcMAC = mac
		}
		if mac, ok := w.nicMAC(end.Link); ok {
			a.DstMAC = mac
		}
	default:
		return Packet{}, false
	}
	text, err := a.frame()
	if err != nil {
		return Packet{}, false
	}
	if h.Proto == headers.ICMP || h.Proto == headers.ICMPv6 {
		text = echoReply(end.Frame, text)
	}
	a.Frame = text
	return a, text != nil
}

// echoReply is the reply to an echo request; nil for other messages. made has
// the headers.
func echoReply(request, made []byte) []byte {
	h := headers.Read(request)
	at := headers.EtherLen + 20
	if h.Src.Addr().Is6() {
		at = headers.EtherLen + 40
	}
	echo := h.Proto == headers.ICMP && h.Type == headers.ICMPEcho || h.Proto == headers.ICMPv6 && h.Type == icmp6Echo
	if !echo || len(request) < at+8 || len(made) < at+8 {
		return nil
	}
	made = append([]byte(nil), made[:at+8]...)
	copy(made[at+4:], request[at+4:at+8])
	made[at], made[at+2], made[at+3] = 0, 0, 0
	if h.Proto == headers.ICMPv6 {
		made[at] = icmp6EchoReply
	}
	reply := headers.Read(made)
	Packet{Src: reply.Src, Dst: reply.Dst}.seal(made[at:], h.Proto, 2)
	return made
}

// neighbour is the MAC that a node of the cluster has on a NIC.
func (t *Tracer) neighbour(end End) (mac [6]byte, ok bool) {
	var key objects.MapPeerKey
	var value objects.MapPeer
	for it := t.Iterate("peers"); it.Next(&key, &value); {
		if int(key.Ifindex) == end.Link && end.Hop.IsValid() && key.Addr.Netip() == end.Hop {
			return key.Mac, true
		}
	}
	return mac, false
}

func (t *Tracer) nicMAC(link int) (mac [6]byte, ok bool) {
	var nic objects.MapNic
	err := t.Lookup("nics", uint32(link), &nic)
	return nic.Mac, err == nil
}

// PeerMAC is the MAC of a node's frames on a NIC: of the node that has the
// address, or that the pod with the address is on.
func (t *Tracer) PeerMAC(link int, addr netip.Addr) (mac [6]byte, ok bool) {
	hop := addr
	if r := t.routeOf(addr); r.Hop.Netip().IsValid() {
		hop = r.Hop.Netip()
	}
	return t.neighbour(End{Link: link, Hop: hop})
}

// NICMAC is a NIC's own MAC.
func (t *Tracer) NICMAC(link int) ([6]byte, bool) { return t.nicMAC(link) }

// PodOf returns the device and MACs of the pod of this node that has an address.
func (t *Tracer) PodOf(addr netip.Addr) (link int, mac, hostMAC [6]byte, ok bool) {
	m, err := t.InForce("endpoints")
	if err != nil {
		return 0, mac, hostMAC, false
	}
	defer m.Close()
	var e objects.MapEndpoint
	if m.Lookup(objects.Addr(addr), &e) != nil {
		return 0, mac, hostMAC, false
	}
	return int(e.Ifindex), e.Mac, e.HostMac, true
}
