// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/replica"
)

// Origin is where a packet comes from.
type Origin int

// The origins.
const (
	FromPod    Origin = iota // by the pod's veth, Packet.Link its host end
	FromNIC                  // from the network, by the NIC Packet.Link
	FromTunnel               // from the node Packet.Node, through the tunnel
	FromNode                 // from the node's own stack
)

// Packet describes a packet.
type Packet struct {
	From Origin
	Link int
	Node netip.Addr

	Src, Dst       netip.AddrPort // ICMP: the source's port is the echo's id
	Proto          headers.Protocol
	Flags          uint8 // TCP's; 0: SYN
	TTL            uint8 // 0: 64
	SrcMAC, DstMAC [6]byte
	DontFragment   bool
	Length         int       // of the payload
	Fragment       *Fragment // nil: none
	Quote          *Packet   // ICMP: it is an error about this packet
	Frame          []byte    // all of it, instead of the above
}

// EndKind is what became of a packet.
type EndKind string

// The ends, as far as this node sees.
const (
	EndPod      EndKind = "pod"      // it is delivered to a pod of this node
	EndNode     EndKind = "node"     // it is the node's own stack's
	EndWire     EndKind = "wire"     // it leaves by a NIC
	EndTunnel   EndKind = "tunnel"   // it leaves through the tunnel
	EndDropped  EndKind = "dropped"  // and nobody is told
	EndRefused  EndKind = "refused"  // dropped, and its sender is told
	EndAnswered EndKind = "answered" // it is answered here: echo, ARP, ND
)

// End is where a packet's way ends, with its frame there.
type End struct {
	Kind   EndKind
	Link   int        // EndPod, EndWire: the device
	Hop    netip.Addr // EndWire: the neighbour; EndTunnel: the node
	Reason string     // EndDropped, EndRefused: as the drop counters name it
	Frame  []byte     // EndRefused, EndAnswered: the answer
}

// Hop is one program, or the node's stack, on a packet's way.
type Hop struct {
	Program string // empty: the node's stack
	Link    int
	In, Out []byte
	Lines   []Line // what was done
}

// Line is one step in words.
type Line struct{ Topic, Text string }

// Walk is a packet's way.
type Walk struct {
	Hops []Hop
	End  End
}

// maxHops is more than any packet meets on one node.
const maxHops = 8

// errLoops is returned for a packet that comes to no end.
var errLoops = errors.New("comes to no end")

// translation is what the node's own masquerade does.
type translation struct{ pod, node netip.Addr }

// walker follows one packet.
type walker struct {
	*Tracer
	walk   *Walk
	masked *translation
}

// Walk follows a packet, and, if it gets anywhere, the answer to it.
func (t *Tracer) Walk(p Packet) (there, back *Walk, err error) {
	frame, err := p.frame()
	if err != nil {
		return nil, nil, err
	}
	h := headers.Read(frame)
	addrs := []netip.Addr{h.Src.Addr()}
	if p.Quote != nil {
		addrs = append(addrs, p.Quote.Src.Addr(), p.Quote.Dst.Addr())
	}
	own, err := t.NICs()
	if err != nil {
		return nil, nil, err
	}
	for _, n := range own {
		addrs = append(addrs, n.Addrs...) // whom backends outside answer
	}
	if err := t.Remember(addrs...); err != nil {
		return nil, nil, err
	}
	w := walker{Tracer: t, walk: &Walk{}}
	if err := w.begin(p, frame); err != nil {
		return nil, nil, fmt.Errorf("packet from %s to %s: %w", h.Src, h.Dst, err)
	}
	answer, ok := w.answer(p, frame)
	if !ok {
		return w.walk, nil, nil
	}
	b := walker{Tracer: t, walk: &Walk{}, masked: w.masked}
	if err := b.begin(answer, answer.Frame); err != nil {
		return nil, nil, fmt.Errorf("answer to packet from %s to %s: %w", h.Src, h.Dst, err)
	}
	return w.walk, b.walk, nil
}

// begin puts the frame where it comes from.
func (w *walker) begin(p Packet, frame []byte) error {
	switch p.From {
	case FromPod:
		return w.through(replica.Input{Program: "tc_pod_in", Link: p.Link, Frame: frame})
	case FromNIC:
		return w.through(replica.Input{Program: "tc_uplink_in", Link: p.Link, Frame: frame})
	case FromTunnel:
		cfg, err := w.config()
		if err != nil {
			return err
		}
		return w.through(replica.Input{Program: "tc_tunnel_in", Link: int(cfg.TunnelIfindex), Frame: frame, Node: p.Node})
	}
	return w.stack(frame, 0, 0)
}

// through runs a program and goes on with what it made of the packet.
func (w *walker) through(in replica.Input) error {
	if len(w.walk.Hops) >= maxHops {
		return errLoops
	}
	out, err := w.Run(in)
	if err != nil {
		return err
	}
	hop := Hop{Program: in.Program, Link: in.Link, In: in.Frame, Out: out.Frame}
	hop.Lines = w.explain(in, out)
	w.walk.Hops = append(w.walk.Hops, hop)
	switch {
	case out.Verdict == replica.ActShot:
		w.end(End{Kind: EndDropped, Reason: out.Reason, Frame: in.Frame})
		return nil
	case out.Reason != "":
		w.end(End{Kind: EndRefused, Reason: out.Reason, Link: in.Link, Frame: out.Frame})
		return nil
	case out.Verdict == replica.ActRedirect:
		return w.sent(in, out)
	}
	switch in.Program {
	case "tc_pod_out":
		w.end(End{Kind: EndPod, Link: in.Link, Frame: out.Frame})
	case "tc_uplink_out":
		w.end(End{Kind: EndWire, Link: in.Link, Frame: out.Frame})
	case "tc_tunnel_out":
		w.end(End{Kind: EndTunnel, Link: in.Link, Hop: remote(out.Sent), Frame: out.Frame})
	default:
		return w.stack(out.Frame, in.Link, out.Mark)
	}
	return nil
}

func (w *walker) end(e End) { w.walk.End = e }

const toIngress = 1 // BPF_F_INGRESS

// sent goes on where the program has redirected the packet to.
func (w *walker) sent(in replica.Input, out replica.Output) error {
	link := int(out.Sent.Link)
	cfg, err := w.config()
	if err != nil {
		return err
	}
	end := End{Kind: EndWire, Link: link, Frame: out.Frame}
	switch {
	case answersItself(out.Steps):
		end.Kind = EndAnswered
	case asm.BuiltinFunc(out.Sent.Helper) == asm.FnRedirectPeer:
		end.Kind = EndPod
	case out.Sent.Flags&toIngress != 0:
		return w.stack(out.Frame, link, out.Mark)
	case link == int(cfg.TunnelIfindex) && link != 0:
		end.Kind, end.Hop = EndTunnel, remote(out.Sent)
	case w.isPod(link):
		end.Kind = EndPod
	case asm.BuiltinFunc(out.Sent.Helper) == asm.FnRedirectNeigh:
		if end.Hop = hopOf(out.Sent); !end.Hop.IsValid() {
			if r, err := w.Route(out.Frame, 0); err == nil {
				end.Hop = r.Hop
			}
		}
	case out.Sent.Helper == 0:
		return fmt.Errorf("%s redirected the packet, and how was not seen", in.Program)
	}
	w.end(end)
	return nil
}

// answersItself tells whether a stage has turned the packet into its answer.
func answersItself(steps []replica.Step) bool {
	for _, s := range steps {
		switch s.Name {
		case "answer_arp", "answer_nd", "answer_echo":
			if uint32(s.Ret) == replica.ActRedirect {
				return true
			}
		}
		if answersItself(s.Steps) {
			return true
		}
	}
	return false
}

// remote is the node at the tunnel's other end.
func remote(s replica.Sent) netip.Addr {
	switch s.Tunnel {
	case 0:
		return netip.Addr{}
	case 2: // 1 + BPF_F_TUNINFO_IPV6
		return netip.AddrFrom16(s.Remote)
	}
	return netip.AddrFrom4([4]byte{s.Remote[3], s.Remote[2], s.Remote[1], s.Remote[0]})
}

// Address families of the kernel.
const afInet, afInet6 = 2, 10

func hopOf(s replica.Sent) netip.Addr {
	switch s.Family {
	case afInet:
		return netip.AddrFrom4([4]byte(s.Hop[:4]))
	case afInet6:
		return netip.AddrFrom16(s.Hop)
	}
	return netip.Addr{}
}

// stack is the node's own stack with a packet of a device, or its own.
func (w *walker) stack(frame []byte, from int, mark uint32) error {
	if len(w.walk.Hops) >= maxHops {
		return errLoops
	}
	hop := Hop{Link: from, In: frame, Out: frame}
	note := func(topic, format string, args ...any) {
		hop.Lines = append(hop.Lines, Line{topic, fmt.Sprintf(format, args...)})
	}
	done := func(e End) error {
		w.walk.Hops = append(w.walk.Hops, hop)
		w.end(e)
		return nil
	}
	h := headers.Read(frame)
	if !h.Src.IsValid() {
		note("stack", "not IP: it is the node's own")
		return done(End{Kind: EndNode, Frame: frame})
	}
	pod, err := w.unmask(h, from)
	if err != nil {
		return err
	}
	if pod.IsValid() {
		note("masquerade", "the answer to a pod's packet: %s becomes %s again", h.Dst, pod)
		frame = headers.Rewrite(frame, netip.AddrPort{}, pod)
		h = headers.Read(frame)
	}
	if h.Dst.Addr().IsMulticast() || h.Dst.Addr().IsLinkLocalUnicast() {
		note("stack", "%s is the link's: it is the node's own", h.Dst.Addr())
		return done(End{Kind: EndNode, Frame: frame})
	}
	r, err := w.Route(frame, from)
	if err != nil {
		return err
	}
	switch {
	case r.Local:
		note("route", "%s is the node's own address: to a process of the node, or refused by it", h.Dst.Addr())
		return done(End{Kind: EndNode, Frame: frame})
	case r.Refused != "":
		note("route", "%s", r.Refused)
		return done(End{Kind: EndDropped, Reason: "route", Frame: frame})
	}
	note("route", "%s by %s", viaText(r.Hop, h.Dst.Addr(), w.opts.Names), w.opts.Names.link(r.Link))
	if from != 0 && h.TTL <= 1 {
		note("hop limit", "used up")
		return done(End{Kind: EndDropped, Reason: "ttl", Frame: frame})
	}
	frame, line, dropped, err := w.leave(frame, from, r)
	if err != nil {
		return err
	}
	if line.Topic != "" {
		hop.Lines = append(hop.Lines, line)
	}
	if dropped {
		return done(End{Kind: EndDropped, Reason: "masquerade", Frame: frame})
	}
	hop.Out = frame
	w.walk.Hops = append(w.walk.Hops, hop)
	return w.out(frame, from, mark, r)
}

// unmask is the pod's end of a masqueraded connection that a packet answers; not
// valid: it answers none.
func (w *walker) unmask(h headers.Header, from int) (netip.AddrPort, error) {
	if w.masked != nil && h.Dst.Addr() == w.masked.node {
		return netip.AddrPortFrom(w.masked.pod, 0), nil
	}
	if !w.opts.Masquerade || from == 0 || w.isPod(from) || h.Later {
		return netip.AddrPort{}, nil
	}
	c, answer, ok, err := w.masqueraded(h)
	if err != nil || !ok || !answer {
		return netip.AddrPort{}, err
	}
	return c.pod, nil
}

// leave is what the stack does to a packet that it forwards; dropped: our rules
// keep it in.
func (w *walker) leave(frame []byte, from int, r replica.Route) (out []byte, line Line, dropped bool, err error) {
	frame = append([]byte(nil), frame...)
	copy(frame, r.DstMAC[:])
	copy(frame[6:], r.SrcMAC[:])
	if from == 0 {
		return frame, Line{}, false, nil
	}
	h := headers.Read(frame)
	frame = headers.Forward(frame)
	node := w.maskFor(h, from, r.Link)
	if !node.IsValid() {
		return frame, Line{}, false, nil
	}
	w.masked = &translation{h.Src.Addr(), node}
	c, answer, known, err := w.masqueraded(h)
	switch {
	case err != nil:
		return nil, Line{}, false, err
	case known && !answer:
		return headers.Rewrite(frame, c.node, netip.AddrPort{}), Line{"masquerade", fmt.Sprintf("the connection is known: %s becomes %s", h.Src, c.node)}, false, nil
	case h.Proto == headers.TCP && h.Flags&(headers.FIN|headers.SYN|headers.RST|headers.ACK) != headers.SYN:
		return frame, Line{"masquerade", "TCP from the middle of a connection that the kernel doesn't know: nobody outside knows it by the node's address"}, true, nil
	}
	return headers.Rewrite(frame, netip.AddrPortFrom(node, 0), netip.AddrPort{}),
		Line{"masquerade", fmt.Sprintf("the source %s becomes the node's %s; its port stays where it is free", h.Src.Addr(), node)}, false, nil
}

// maskFor is the node's address that a pod's packet gets on its way out.
func (w *walker) maskFor(h headers.Header, from, to int) netip.Addr {
	if !w.opts.Masquerade || !w.isPod(from) || w.kind(h.Dst.Addr()) != objects.MapRouteKindROUTE_NONE {
		return netip.Addr{}
	}
	var nic objects.MapNic
	if w.Lookup("nics", uint32(to), &nic) != nil {
		return netip.Addr{}
	}
	if h.Src.Addr().Is4() {
		return nic.V4.Netip()
	}
	return nic.V6.Netip()
}

// out runs the program at the device that the stack sends the packet out by.
func (w *walker) out(frame []byte, from int, mark uint32, r replica.Route) error {
	in := replica.Input{Program: "tc_uplink_out", Link: r.Link, Origin: from, Mark: mark, Frame: frame}
	cfg, err := w.config()
	if err != nil {
		return err
	}
	var nic objects.MapNic
	err = w.Lookup("nics", uint32(r.Link), &nic)
	switch {
	case w.isPod(r.Link):
		in.Program = "tc_pod_out"
	case r.Link == int(cfg.TunnelIfindex):
		in.Program = "tc_tunnel_out"
	case errors.Is(err, ebpf.ErrKeyNotExist):
		w.end(End{Kind: EndWire, Link: r.Link, Hop: r.Hop, Frame: frame})
		return nil
	case err != nil:
		return fmt.Errorf("read NIC %d: %w", r.Link, err)
	}
	if err := w.through(in); err != nil {
		return err
	}
	if w.walk.End.Kind == EndWire && !w.walk.End.Hop.IsValid() {
		w.walk.End.Hop = r.Hop
	}
	return nil
}

// config reads the tunnel's settings.
func (t *Tracer) config() (c objects.MapConfig, err error) {
	if err := t.Lookup("config", uint32(0), &c); err != nil {
		return c, fmt.Errorf("read config: %w", err)
	}
	return c, nil
}

// isPod tells whether a device is the host end of a pod's veth.
func (t *Tracer) isPod(link int) bool {
	var key objects.MapAddr
	var value objects.MapEndpoint
	for it := t.Iterate("endpoints"); it.Next(&key, &value); {
		if int(value.Ifindex) == link && link != 0 {
			return true
		}
	}
	return false
}

// kind is what an address is to this node.
func (t *Tracer) kind(a netip.Addr) objects.MapRouteKind {
	return objects.MapRouteKind(t.routeOf(a).Kind)
}

func (t *Tracer) routeOf(a netip.Addr) (r objects.MapRoute) {
	_ = t.Lookup("routes", objects.MapRouteKey{Prefixlen: 128, Addr: a.As16()}, &r) // none: outside
	return r
}
