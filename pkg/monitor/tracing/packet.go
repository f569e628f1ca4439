// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// sourcePort is the source port of packets that don't name theirs.
const sourcePort = 40000

// somebody is an address outside, for packets that come from just anywhere.
func somebody(is4 bool) netip.Addr {
	if is4 {
		return netip.MustParseAddr("203.0.113.1")
	}
	return netip.MustParseAddr("2001:db8::1")
}

// packet makes of the request what can be run.
func (a *asked) packet() (p trace.Packet, err error) {
	switch protocol := strings.ToLower(a.request.Protocol); {
	case len(a.request.Frame) > 0:
		return a.whole()
	case protocol == "arp" || protocol == "nd":
		return a.solicitation(protocol)
	case len(a.request.About) > 0:
		return a.complaint()
	}
	return a.described()
}

// described is a packet by its addresses and ports.
func (a *asked) described() (p trace.Packet, err error) {
	r := a.request
	if p.Proto, err = protocol(cmp.Or(r.Protocol, "tcp")); err != nil {
		return p, err
	}
	if p.Flags, err = flags(r.Flags); err != nil {
		return p, err
	}
	p.TTL, p.Length, p.DontFragment = r.TTL, r.Length, r.NoFragment
	if p.Dst, err = a.destination(p.Proto); err != nil {
		return p, err
	}
	if err := a.source(&p); err != nil {
		return p, err
	}
	if p.Src.Addr().Is4() != p.Dst.Addr().Is4() {
		return p, fmt.Errorf("%s and %s are not of one family", p.Src.Addr(), p.Dst.Addr())
	}
	return p, a.mac(&p)
}

// mac gives the packet the source MAC that was asked for, if any was.
func (a *asked) mac(p *trace.Packet) error {
	if a.request.MAC == "" {
		return nil
	}
	hw, err := net.ParseMAC(a.request.MAC)
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("MAC %q: want six bytes", a.request.MAC)
	}
	p.SrcMAC = [6]byte(hw)
	return nil
}

func protocol(text string) (headers.Protocol, error) {
	for _, p := range []headers.Protocol{headers.TCP, headers.UDP, headers.SCTP, headers.ICMP} {
		if strings.EqualFold(text, p.String()) {
			return p, nil
		}
	}
	if strings.EqualFold(text, "icmpv6") {
		return headers.ICMP, nil
	}
	return 0, fmt.Errorf("protocol %q is none of tcp, udp, sctp, icmp", text)
}

func flags(names []string) (out uint8, err error) {
	known := []string{"fin", "syn", "rst", "psh", "ack"}
	for _, name := range names {
		i := slices.Index(known, strings.ToLower(name))
		if i < 0 {
			return 0, fmt.Errorf("TCP flag %q is none of %s", name, strings.Join(known, ", "))
		}
		out |= 1 << i
	}
	return out, nil
}

// destination finds out where the packet is for.
func (a *asked) destination(proto headers.Protocol) (netip.AddrPort, error) {
	to := a.request.To
	if dst, err := netip.ParseAddrPort(to); err == nil {
		return dst, nil
	}
	if addr, err := netip.ParseAddr(to); err == nil {
		if proto != headers.ICMP {
			return netip.AddrPort{}, fmt.Errorf("destination %s: %s needs a port", to, proto)
		}
		return netip.AddrPortFrom(addr, 0), nil
	}
	name, portText, _ := strings.Cut(to, ":")
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil && proto != headers.ICMP {
		return netip.AddrPort{}, fmt.Errorf("destination %q: want ADDRESS:PORT, or NAMESPACE/NAME:PORT of a Service or pod", to)
	}
	for _, s := range a.opts.View.Services() {
		if isName(name, s.Namespace, s.Name) && (proto == headers.ICMP || s.Frontend.Port() == uint16(port) && s.Protocol == proto.String()) {
			return netip.AddrPortFrom(s.Frontend.Addr(), uint16(port)), nil
		}
	}
	if pod, ok := a.pod(name); ok && len(pod.Addrs) > 0 {
		return netip.AddrPortFrom(pod.Addrs[0], uint16(port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("destination %q: no Service in force has that name and port, and no pod of this node", to)
}

func isName(text, namespace, name string) bool {
	return name != "" && (text == name || text == namespace+"/"+name)
}

// pod finds a pod of this node by its name or address.
func (a *asked) pod(text string) (agentapi.Pod, bool) {
	addr, err := netip.ParseAddr(text)
	for _, p := range a.opts.View.Pods() {
		if isName(text, p.PodNamespace, p.PodName) || err == nil && slices.Contains(p.Addrs, addr) {
			return p, true
		}
	}
	return agentapi.Pod{}, false
}

var errNoAddress = errors.New("no address of the destination's family")

// source finds out where the packet comes from.
func (a *asked) source(p *trace.Packet) error {
	from, port := a.request.From, cmp.Or(a.request.SourcePort, sourcePort)
	is4 := p.Dst.Addr().Is4()
	if src, err := netip.ParseAddrPort(from); err == nil {
		from, port = src.Addr().String(), src.Port()
	}
	switch from {
	case "":
		return errors.New("where does the packet come from?")
	case "node":
		return a.fromNode(p, port)
	case "outside":
		return a.fromElsewhere(p, netip.AddrPortFrom(somebody(is4), port))
	}
	if pod, ok := a.pod(from); ok {
		i := slices.IndexFunc(pod.Addrs, func(a netip.Addr) bool { return a.Is4() == is4 })
		if i < 0 {
			return fmt.Errorf("pod %s: %w", from, errNoAddress)
		}
		return a.fromPod(p, netip.AddrPortFrom(pod.Addrs[i], port))
	}
	addr, err := netip.ParseAddr(from)
	if err != nil {
		return fmt.Errorf("source %q: this node has no such pod; want NAMESPACE/NAME, an address, node or outside", from)
	}
	if _, _, _, ok := a.tracer.PodOf(addr); ok {
		return a.fromPod(p, netip.AddrPortFrom(addr, port))
	}
	for _, n := range a.opts.View.NICs() {
		if slices.ContainsFunc(n.Addrs, func(own netip.Prefix) bool { return own.Addr() == addr }) && a.request.NIC == "" {
			p.From, p.Src = trace.FromNode, netip.AddrPortFrom(addr, port)
			return nil
		}
	}
	return a.fromElsewhere(p, netip.AddrPortFrom(addr, port))
}

func (a *asked) fromPod(p *trace.Packet, src netip.AddrPort) error {
	link, mac, hostMAC, ok := a.tracer.PodOf(src.Addr())
	if !ok {
		return fmt.Errorf("pod with %s: its programs are not in force", src.Addr())
	}
	p.From, p.Link, p.Src, p.SrcMAC, p.DstMAC = trace.FromPod, link, src, mac, hostMAC
	return nil
}

// fromNode takes the address that the node would: on the destination's network,
// else the internal one.
func (a *asked) fromNode(p *trace.Packet, port uint16) error {
	var best netip.Addr
	for _, n := range a.opts.View.NICs() {
		for _, own := range n.Addrs {
			switch {
			case own.Addr().Is4() != p.Dst.Addr().Is4() || own.Addr().IsLinkLocalUnicast():
			case own.Contains(p.Dst.Addr()):
				p.From, p.Src = trace.FromNode, netip.AddrPortFrom(own.Addr(), port)
				return nil
			case !best.IsValid() || strings.Contains(n.Role, "internal"):
				best = own.Addr()
			}
		}
	}
	if !best.IsValid() {
		return fmt.Errorf("node: %w", errNoAddress)
	}
	a.note("the node's address is taken to be %s", best)
	p.From, p.Src = trace.FromNode, netip.AddrPortFrom(best, port)
	return nil
}

// fromElsewhere is by a NIC, or through the tunnel.
func (a *asked) fromElsewhere(p *trace.Packet, src netip.AddrPort) error {
	p.Src = src
	if node := a.request.Tunnel; node.IsValid() {
		p.From, p.Node = trace.FromTunnel, node
		return nil
	}
	nic, err := a.nic(src.Addr())
	if err != nil {
		return err
	}
	p.From, p.Link = trace.FromNIC, nic.Index
	p.SrcMAC = [6]byte{2, 0, 0, 0, 0, 1}
	if mac, ok := a.tracer.PeerMAC(nic.Index, src.Addr()); ok {
		p.SrcMAC = mac
	}
	if mac, ok := a.tracer.NICMAC(nic.Index); ok {
		p.DstMAC = mac
	}
	return nil
}
