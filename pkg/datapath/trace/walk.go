// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
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
	Proto          Protocol
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
	h := ReadHeader(frame)
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
	if err := t.remember(addrs...); err != nil {
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
		return w.through(input{program: "tc_pod_in", link: p.Link, frame: frame})
	case FromNIC:
		return w.through(input{program: "tc_uplink_in", link: p.Link, frame: frame})
	case FromTunnel:
		cfg, err := w.config()
		if err != nil {
			return err
		}
		return w.through(input{program: "tc_tunnel_in", link: int(cfg.TunnelIfindex), frame: frame, node: p.Node})
	}
	return w.stack(frame, 0, 0)
}

// through runs a program and goes on with what it made of the packet.
func (w *walker) through(in input) error {
	if len(w.walk.Hops) >= maxHops {
		return errLoops
	}
	out, err := w.run(in)
	if err != nil {
		return err
	}
	hop := Hop{Program: in.program, Link: in.link, In: in.frame, Out: out.frame}
	hop.Lines = w.explain(in, out)
	w.walk.Hops = append(w.walk.Hops, hop)
	switch {
	case out.verdict == actShot:
		w.end(End{Kind: EndDropped, Reason: out.reason, Frame: in.frame})
		return nil
	case out.reason != "":
		w.end(End{Kind: EndRefused, Reason: out.reason, Link: in.link, Frame: out.frame})
		return nil
	case out.verdict == actRedirect:
		return w.sent(in, out)
	}
	switch in.program {
	case "tc_pod_out":
		w.end(End{Kind: EndPod, Link: in.link, Frame: out.frame})
	case "tc_uplink_out":
		w.end(End{Kind: EndWire, Link: in.link, Frame: out.frame})
	case "tc_tunnel_out":
		w.end(End{Kind: EndTunnel, Link: in.link, Hop: remote(out.sent), Frame: out.frame})
	default:
		return w.stack(out.frame, in.link, out.mark)
	}
	return nil
}

func (w *walker) end(e End) { w.walk.End = e }

const toIngress = 1 // BPF_F_INGRESS

// sent goes on where the program has redirected the packet to.
func (w *walker) sent(in input, out output) error {
	link := int(out.sent.Link)
	cfg, err := w.config()
	if err != nil {
		return err
	}
	end := End{Kind: EndWire, Link: link, Frame: out.frame}
	switch {
	case answersItself(out.steps):
		end.Kind = EndAnswered
	case asm.BuiltinFunc(out.sent.Helper) == asm.FnRedirectPeer:
		end.Kind = EndPod
	case out.sent.Flags&toIngress != 0:
		return w.stack(out.frame, link, out.mark)
	case link == int(cfg.TunnelIfindex) && link != 0:
		end.Kind, end.Hop = EndTunnel, remote(out.sent)
	case w.isPod(link):
		end.Kind = EndPod
	case asm.BuiltinFunc(out.sent.Helper) == asm.FnRedirectNeigh:
		if end.Hop = hopOf(out.sent); !end.Hop.IsValid() {
			if r, err := w.lookup(out.frame, 0); err == nil {
				end.Hop = r.hop
			}
		}
	case out.sent.Helper == 0:
		return fmt.Errorf("%s redirected the packet, and how was not seen", in.program)
	}
	w.end(end)
	return nil
}

// answersItself tells whether a stage has turned the packet into its answer.
func answersItself(steps []step) bool {
	for _, s := range steps {
		switch s.name {
		case "answer_arp", "answer_nd", "answer_echo":
			if uint32(s.ret) == actRedirect {
				return true
			}
		}
		if answersItself(s.steps) {
			return true
		}
	}
	return false
}

// remote is the node at the tunnel's other end.
func remote(s sent) netip.Addr {
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

func hopOf(s sent) netip.Addr {
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
	h := ReadHeader(frame)
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
		frame = rewrite(frame, netip.AddrPort{}, pod)
		h = ReadHeader(frame)
	}
	if h.Dst.Addr().IsMulticast() || h.Dst.Addr().IsLinkLocalUnicast() {
		note("stack", "%s is the link's: it is the node's own", h.Dst.Addr())
		return done(End{Kind: EndNode, Frame: frame})
	}
	r, err := w.lookup(frame, from)
	if err != nil {
		return err
	}
	switch {
	case r.local:
		note("route", "%s is the node's own address: to a process of the node, or refused by it", h.Dst.Addr())
		return done(End{Kind: EndNode, Frame: frame})
	case r.refused != "":
		note("route", "%s", r.refused)
		return done(End{Kind: EndDropped, Reason: "route", Frame: frame})
	}
	note("route", "%s by %s", viaText(r.hop, h.Dst.Addr(), w.opts.Names), w.opts.Names.link(r.link))
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
func (w *walker) unmask(h Header, from int) (netip.AddrPort, error) {
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
func (w *walker) leave(frame []byte, from int, r route) (out []byte, line Line, dropped bool, err error) {
	frame = append([]byte(nil), frame...)
	copy(frame, r.dmac[:])
	copy(frame[6:], r.smac[:])
	if from == 0 {
		return frame, Line{}, false, nil
	}
	h := ReadHeader(frame)
	frame = rewriteHops(frame)
	node := w.maskFor(h, from, r.link)
	if !node.IsValid() {
		return frame, Line{}, false, nil
	}
	w.masked = &translation{h.Src.Addr(), node}
	c, answer, known, err := w.masqueraded(h)
	switch {
	case err != nil:
		return nil, Line{}, false, err
	case known && !answer:
		return rewrite(frame, c.node, netip.AddrPort{}), Line{"masquerade", fmt.Sprintf("the connection is known: %s becomes %s", h.Src, c.node)}, false, nil
	case h.Proto == TCP && h.Flags&(FIN|SYN|RST|ACK) != SYN:
		return frame, Line{"masquerade", "TCP from the middle of a connection that the kernel doesn't know: nobody outside knows it by the node's address"}, true, nil
	}
	return rewrite(frame, netip.AddrPortFrom(node, 0), netip.AddrPort{}),
		Line{"masquerade", fmt.Sprintf("the source %s becomes the node's %s; its port stays where it is free", h.Src.Addr(), node)}, false, nil
}

// maskFor is the node's address that a pod's packet gets on its way out.
func (w *walker) maskFor(h Header, from, to int) netip.Addr {
	if !w.opts.Masquerade || !w.isPod(from) || w.kind(h.Dst.Addr()) != objects.MapRouteKindROUTE_NONE {
		return netip.Addr{}
	}
	var nic objects.MapNic
	if w.maps["nics"].Lookup(uint32(to), &nic) != nil {
		return netip.Addr{}
	}
	if h.Src.Addr().Is4() {
		return nic.V4.Netip()
	}
	return nic.V6.Netip()
}

// out runs the program at the device that the stack sends the packet out by.
func (w *walker) out(frame []byte, from int, mark uint32, r route) error {
	in := input{program: "tc_uplink_out", link: r.link, origin: from, mark: mark, frame: frame}
	cfg, err := w.config()
	if err != nil {
		return err
	}
	var nic objects.MapNic
	err = w.maps["nics"].Lookup(uint32(r.link), &nic)
	switch {
	case w.isPod(r.link):
		in.program = "tc_pod_out"
	case r.link == int(cfg.TunnelIfindex):
		in.program = "tc_tunnel_out"
	case errors.Is(err, ebpf.ErrKeyNotExist):
		w.end(End{Kind: EndWire, Link: r.link, Hop: r.hop, Frame: frame})
		return nil
	case err != nil:
		return fmt.Errorf("read NIC %d: %w", r.link, err)
	}
	if err := w.through(in); err != nil {
		return err
	}
	if w.walk.End.Kind == EndWire && !w.walk.End.Hop.IsValid() {
		w.walk.End.Hop = r.hop
	}
	return nil
}

// config reads the tunnel's settings.
func (t *Tracer) config() (c objects.MapConfig, err error) {
	if err := t.maps["config"].Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("read config: %w", err)
	}
	return c, nil
}

// isPod tells whether a device is the host end of a pod's veth.
func (t *Tracer) isPod(link int) bool {
	var key objects.MapAddr
	var value objects.MapEndpoint
	for it := t.maps["endpoints"].Iterate(); it.Next(&key, &value); {
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
	_ = t.maps["routes"].Lookup(objects.MapRouteKey{Prefixlen: 128, Addr: a.As16()}, &r) // none: outside
	return r
}

// route is what the node's routing table says.
type route struct {
	link       int
	hop        netip.Addr
	smac, dmac [6]byte
	local      bool
	refused    string
}

// fibSize is struct bpf_fib_lookup's; then BPF_FIB_LKUP_RET_*.
const (
	fibSize = 64

	fibSuccess, fibNotForwarded, fibNoNeighbour = 0, 4, 7
)

// loopback is the device that the node's own packets are looked up for.
const loopback = 1

// lookup asks the node's routes for a packet of a device, or its own.
func (t *Tracer) lookup(frame []byte, from int) (route, error) {
	h := ReadHeader(frame)
	q := make([]byte, fibSize)
	q[0], q[1] = afInet, byte(h.Proto)
	src, dst := h.Src.Addr().AsSlice(), h.Dst.Addr().AsSlice()
	if h.Src.Addr().Is6() {
		q[0] = afInet6
	}
	binary.BigEndian.PutUint16(q[2:], h.Src.Port())
	binary.BigEndian.PutUint16(q[4:], h.Dst.Port())
	if from == 0 {
		from = loopback
	}
	binary.NativeEndian.PutUint32(q[8:], uint32(from))
	copy(q[16:], src)
	copy(q[32:], dst)
	if err := t.maps[tableRoutes].Put(uint32(0), q); err != nil {
		return route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	code, err := t.route.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	if err := t.maps[tableRoutes].Lookup(uint32(0), &q); err != nil {
		return route{}, fmt.Errorf("ask for the route to %s: %w", h.Dst.Addr(), err)
	}
	r := route{link: int(binary.NativeEndian.Uint32(q[8:])), smac: [6]byte(q[52:]), dmac: [6]byte(q[58:])}
	r.hop, _ = netip.AddrFromSlice(q[32 : 32+len(dst)])
	if q[0] == afInet6 { // also of an IPv4 route
		r.hop = netip.AddrFrom16([16]byte(q[32:48]))
	}
	switch code {
	case fibSuccess, fibNoNeighbour:
		return r, nil
	case fibNotForwarded:
		r.local = true
		return r, nil
	}
	r.refused = fibText(code)
	return r, nil
}

func fibText(code uint32) string {
	texts := map[uint32]string{
		1: "a blackhole route", 2: "an unreachable route, or none", 3: "a prohibiting route",
		5: "forwarding is switched off (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding)",
	}
	if text := texts[code]; text != "" {
		return text
	}
	return fmt.Sprintf("no route (code %d of bpf_fib_lookup)", int32(code))
}
