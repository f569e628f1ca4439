// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// longestFrame is more than the kernel runs programs on.
const longestFrame = 4096

// whole is a packet of which all is given.
func (a *asked) whole() (p trace.Packet, err error) {
	frame := a.request.Frame
	h := headers.Read(frame)
	switch {
	case len(frame) < headers.EtherLen || len(frame) > longestFrame:
		return p, fmt.Errorf("a frame of %d bytes: want %d to %d", len(frame), headers.EtherLen, longestFrame)
	case frame[12] == headers.EtherVLAN>>8 && frame[13] == headers.EtherVLAN&0xff:
		return p, errors.New("a frame with a VLAN's tag: NICs take it off, give the frame without")
	}
	p.Proto, p.Src, p.Dst, p.Frame = h.Proto, h.Src, h.Dst, frame
	if a.request.From == "" && !a.request.Tunnel.IsValid() {
		nic, err := a.nicWith(h.DstMAC, h.Src.Addr())
		p.From, p.Link = trace.FromNIC, nic.Index
		return p, err
	}
	origin := trace.Packet{Src: h.Src, Dst: h.Dst}
	if !h.Src.IsValid() { // not IP: any address does to find the place that it comes from
		origin.Dst = netip.AddrPortFrom(somebody(true), 0)
	}
	if a.request.From == "" {
		a.request.From = h.Src.Addr().String()
	}
	if err := a.source(&origin); err != nil {
		return p, err
	}
	p.From, p.Link, p.Node = origin.From, origin.Link, origin.Node
	return p, nil
}

// nicWith is the NIC that frames to a MAC come in by, else the one that packets
// from an address do.
func (a *asked) nicWith(mac [6]byte, src netip.Addr) (agentapi.NIC, error) {
	if a.request.NIC == "" {
		text := net.HardwareAddr(mac[:]).String()
		nics := a.opts.View.NICs()
		if i := slices.IndexFunc(nics, func(n agentapi.NIC) bool { return n.MAC == text && n.Role != "ignored" }); i >= 0 {
			return nics[i], nil
		}
	}
	return a.nic(src)
}

// solicitation asks who has an address: on IPv4 by ARP, on IPv6 by neighbour
// discovery.
func (a *asked) solicitation(protocol string) (p trace.Packet, err error) {
	to, err := netip.ParseAddr(a.request.To)
	if err != nil || to.Is4() != (protocol == "arp") {
		return p, fmt.Errorf("%s: %q is no address of its family", protocol, a.request.To)
	}
	p.Dst = netip.AddrPortFrom(to, 0)
	if err := a.source(&p); err != nil {
		return p, err
	}
	if p.From == trace.FromNode || p.From == trace.FromTunnel {
		return p, fmt.Errorf("%s: the node asks by itself, and nobody through the tunnel: want a pod, or an address elsewhere", protocol)
	}
	if err := a.mac(&p); err != nil {
		return p, err
	}
	p.Frame = trace.Solicit(p.SrcMAC, p.Src.Addr(), to)
	return p, nil
}

// complaint is an ICMP error about a packet.
func (a *asked) complaint() (p trace.Packet, err error) {
	about := a.request.About
	if len(about) != 2 {
		return p, errors.New("an ICMP error is about a packet from one ADDRESS:PORT to another")
	}
	quote := trace.Packet{}
	if quote.Src, err = netip.ParseAddrPort(about[0]); err == nil {
		quote.Dst, err = netip.ParseAddrPort(about[1])
	}
	if err == nil {
		quote.Proto, err = protocol(cmp.Or(a.request.Protocol, "tcp"))
	}
	if err != nil {
		return p, fmt.Errorf("an ICMP error about %s to %s: %w", about[0], about[1], err)
	}
	a.request.Protocol = "icmp"
	if p, err = a.described(); err != nil {
		return p, err
	}
	p.Quote = &quote
	return p, nil
}
