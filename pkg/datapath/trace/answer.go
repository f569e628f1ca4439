// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// answer is what whom the packet has reached would answer, and whether it
// would.
func (w *walker) answer(p Packet, frame []byte) (Packet, bool) {
	end := w.walk.End
	h := ReadHeader(end.Frame)
	if !h.Src.IsValid() || h.Later || p.Quote != nil || h.Flags&RST != 0 || h.Dst.Addr().IsMulticast() {
		return Packet{}, false
	}
	a := Packet{Link: end.Link, Src: h.Dst, Dst: h.Src, Proto: h.Proto, SrcMAC: h.DstMAC, DstMAC: h.SrcMAC, Flags: ACK}
	if h.Flags&(SYN|ACK) == SYN {
		a.Flags = SYN | ACK
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
	if h.Proto == ICMP || h.Proto == ICMPv6 {
		text = echoReply(end.Frame, text)
	}
	a.Frame = text
	return a, text != nil
}

// echoReply is the reply to an echo request; nil for other messages. made has
// the headers.
func echoReply(request, made []byte) []byte {
	h := ReadHeader(request)
	at := etherLen + 20
	if h.Src.Addr().Is6() {
		at = etherLen + 40
	}
	echo := h.Proto == ICMP && h.Type == ICMPEcho || h.Proto == ICMPv6 && h.Type == icmp6Echo
	if !echo || len(request) < at+8 || len(made) < at+8 {
		return nil
	}
	made = append([]byte(nil), made[:at+8]...)
	copy(made[at+4:], request[at+4:at+8])
	made[at], made[at+2], made[at+3] = 0, 0, 0
	if h.Proto == ICMPv6 {
		made[at] = icmp6EchoReply
	}
	reply := ReadHeader(made)
	Packet{Src: reply.Src, Dst: reply.Dst}.seal(made[at:], h.Proto, 2)
	return made
}

// neighbour is the MAC that a node of the cluster has on a NIC.
func (t *Tracer) neighbour(end End) (mac [6]byte, ok bool) {
	var key objects.MapPeerKey
	var value objects.MapPeer
	for it := t.maps["peers"].Iterate(); it.Next(&key, &value); {
		if int(key.Ifindex) == end.Link && end.Hop.IsValid() && key.Addr.Netip() == end.Hop {
			return key.Mac, true
		}
	}
	return mac, false
}

func (t *Tracer) nicMAC(link int) (mac [6]byte, ok bool) {
	var nic objects.MapNic
	err := t.maps["nics"].Lookup(uint32(link), &nic)
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

// NICs lists the NICs with programs.
func (t *Tracer) NICs() ([]maps.NIC, error) { return maps.NICs{Map: t.maps["nics"]}.List() }

// PodOf returns the device and MACs of the pod of this node that has an address.
func (t *Tracer) PodOf(addr netip.Addr) (link int, mac, hostMAC [6]byte, ok bool) {
	m, err := t.inForce("endpoints")
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

// rewriteHops takes one off the hop limit, as forwarding does.
func rewriteHops(frame []byte) []byte {
	out := append([]byte(nil), frame...)
	if ReadHeader(frame).Src.Addr().Is6() {
		out[etherLen+7]--
		return out
	}
	out[etherLen+8]--
	return resum(out)
}

// resum makes an IPv4 header's checksum anew.
func resum(frame []byte) []byte {
	ip := frame[etherLen : etherLen+int(frame[etherLen]&15)*4]
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	return frame
}

// rewrite gives a packet other ends; an invalid address and a port of zero stay
// as they are.
func rewrite(frame []byte, src, dst netip.AddrPort) []byte {
	h, out := ReadHeader(frame), append([]byte(nil), frame...)
	at, length, l4 := etherLen+12, 4, etherLen+int(frame[etherLen]&15)*4
	if h.Src.Addr().Is6() {
		at, length, l4 = etherLen+8, 16, etherLen+40
	}
	check := map[Protocol]int{TCP: 16, UDP: 6, ICMPv6: 2}[h.Proto]
	sealed := check != 0 && !h.Later && len(out) >= l4+check+2
	for i, end := range []netip.AddrPort{src, dst} {
		if end.Addr().IsValid() {
			copy(out[at+i*length:], end.Addr().AsSlice())
		}
		if end.Port() != 0 && sealed && h.Proto != ICMPv6 {
			binary.BigEndian.PutUint16(out[l4+2*i:], end.Port())
		}
	}
	if h.Src.Addr().Is4() {
		resum(out)
	}
	if !sealed {
		return out
	}
	old := binary.BigEndian.Uint16(out[l4+check:])
	if old == 0 && h.Proto == UDP {
		return out
	}
	diff := uint32(^old)
	for _, part := range [][2]int{{at, at + 2*length}, {l4, l4 + 4}} {
		if part[0] == l4 && h.Proto == ICMPv6 {
			continue // no ports
		}
		diff += uint32(sum(0, out[part[0]:part[1]])) + uint32(^sum(0, frame[part[0]:part[1]]))
	}
	for diff > 0xffff {
		diff = diff>>16 + diff&0xffff
	}
	binary.BigEndian.PutUint16(out[l4+check:], ^uint16(diff))
	return out
}
