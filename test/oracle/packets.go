// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Pods is how many pods node a has; an endpoint there may name one more, that
// doesn't exist.
const Pods = 3

// Packets returns first packets of flows: most for what the state serves, from
// wherever they may come, the rest for what it doesn't.
func (r *Random) Packets(s *State, count int) []Packet {
	frontends := s.Frontends()
	var list []Packet
	for range count {
		p := Packet{From: From(r.IntN(5)), External: r.chance(50)}
		if len(frontends) > 0 && r.chance(90) {
			f := frontends[r.IntN(len(frontends))]
			p.Dst, p.Protocol = f.Addr, f.Protocol
			r.miss(&p)
		} else {
			family := one(r, 4, 6)
			p.Dst = netip.AddrPortFrom(one(r, serviceIP(family, 99), poolIP(family, 8), elsewhereIP(family), NodeIP(family, 0)), 80)
			p.Protocol = one(r, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
		r.source(&p)
		if p.From == Socket && p.Protocol == corev1.ProtocolSCTP {
			continue // its sockets aren't in every kernel
		}
		if n := len(list); n > 0 && r.chance(10) {
			r.samePort(&p, list[r.IntN(n)])
		}
		list = append(list, p)
	}
	return list
}

// samePort lets a packet come from the very address and port of one before.
func (r *Random) samePort(p *Packet, before Packet) {
	if before.From == p.From && before.External == p.External && before.Src.Addr().Is4() == p.Src.Addr().Is4() {
		p.Src = before.Src
	}
}

// miss makes some packets go beside their frontend.
func (r *Random) miss(p *Packet) {
	switch {
	case r.chance(4):
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), p.Dst.Port()+7)
	case r.chance(4) && p.Protocol != corev1.ProtocolSCTP:
		p.Protocol = map[corev1.Protocol]corev1.Protocol{corev1.ProtocolTCP: corev1.ProtocolUDP, corev1.ProtocolUDP: corev1.ProtocolTCP}[p.Protocol]
	case r.chance(5) && p.From != Socket:
		// The port of another address.
		f := family(p.Dst.Addr())
		p.Dst = netip.AddrPortFrom(one(r, NodeIP(f, 0), poolIP(f, r.IntN(6))), p.Dst.Port())
	}
}

// source gives a packet a sender: of a port of its own, so that it begins a flow.
func (r *Random) source(p *Packet) {
	r.sport++
	f := family(p.Dst.Addr())
	var src netip.Addr
	switch p.From {
	case Pod:
		src = PodIP(f, 0, 5+r.IntN(Pods))
	case Host:
		src = one(r, NodeIP(f, 0), ExternalNodeIP(f, 0))
	case Client:
		src = clientIP(f, r.IntN(3))
	case Peer:
		p.External = false
		src = one(r, PodIP(f, 1, 20+r.IntN(3)), PodIP(f, 1, 20), NodeIP(f, 1))
	case Socket:
		src = PodIP(f, 0, 5)
	}
	p.Src = netip.AddrPortFrom(src, r.sport)
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}
