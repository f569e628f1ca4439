// SPDX-License-Identifier: Apache-2.0

// Package tracing answers "what would happen to this packet": it finds out
// what a request's words mean on this node, has pkg/datapath/trace run the
// programs, and puts the result into words.
package tracing

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/netns"
)

// View is what is known of the node by names.
type View interface {
	Pods() []agentapi.Pod
	Services() []agentapi.Service
	NICs() []agentapi.NIC
}

// Options are what a Desk works with.
type Options struct {
	PinDir     string // as the datapath's
	Masquerade bool
	View       View
}

// Desk answers requests, one after another.
type Desk struct {
	opts Options
	mu   sync.Mutex // a trace loads programs: not many at once
}

// New returns a Desk. It must be called, and used, in the node's network
// namespace.
func New(opts Options) *Desk { return &Desk{opts: opts} }

// Trace answers a request.
func (d *Desk) Trace(_ context.Context, r agentapi.TraceRequest) (agentapi.Trace, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tracer, err := trace.Open(trace.Options{PinDir: d.opts.PinDir, Masquerade: d.opts.Masquerade, Names: d.names()})
	if err != nil {
		return agentapi.Trace{}, fmt.Errorf("trace: %w", err)
	}
	defer tracer.Close()
	a := asked{Desk: d, tracer: tracer, request: r}
	out, err := a.run()
	if err != nil {
		return agentapi.Trace{}, err
	}
	return out, nil
}

// names name what the maps know by numbers.
func (d *Desk) names() trace.Names {
	pods, services := map[netip.Addr]string{}, map[string]string{}
	for _, p := range d.opts.View.Pods() {
		for _, a := range p.Addrs {
			if p.PodName != "" {
				pods[a] = p.PodNamespace + "/" + p.PodName
			}
		}
	}
	key := func(a netip.AddrPort, protocol string) string { return a.String() + "/" + protocol }
	for _, s := range d.opts.View.Services() {
		services[key(s.Frontend, s.Protocol)] = s.Namespace + "/" + s.Name
	}
	return trace.Names{
		Pod:     func(a netip.Addr) string { return pods[a] },
		Service: func(a netip.AddrPort, p headers.Protocol) string { return services[key(a, p.String())] },
		Node:    d.nodeOf,
	}
}

// nodeOf names the node that has backends at an address, if any has.
func (d *Desk) nodeOf(addr netip.Addr) string {
	for _, s := range d.opts.View.Services() {
		for _, b := range s.Backends {
			if b.Addr.Addr() == addr {
				return b.Node
			}
		}
	}
	return ""
}

// asked is one request under way.
type asked struct {
	*Desk
	tracer  *trace.Tracer
	request agentapi.TraceRequest
	notes   []string
}

func (a *asked) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

func (a *asked) run() (agentapi.Trace, error) {
	packet, err := a.packet()
	if err != nil {
		return agentapi.Trace{}, agentapi.Errorf(agentapi.CodeInvalid, "%v", err)
	}
	if err := a.tracer.Current(); err != nil {
		a.note("%v", err)
	}
	out := agentapi.Trace{}
	if out.Socket, err = a.socket(&packet); err != nil {
		return agentapi.Trace{}, err
	}
	if packet.From == trace.FromNIC {
		a.whetherAnnounced(packet)
	}
	there, back, err := a.tracer.Walk(packet)
	if err != nil {
		return agentapi.Trace{}, fmt.Errorf("trace: %w", err)
	}
	if len(there.Hops) > 0 {
		out.Packet = headers.Read(there.Hops[0].In).String()
	}
	out.There = a.walk(there)
	if back != nil {
		b := a.walk(back)
		out.Back = &b
	}
	out.Notes = a.notes
	return out, nil
}

// socket says what a process's call becomes, and makes the packet the one that
// it then sends.
func (a *asked) socket(p *trace.Packet) (*agentapi.TraceSocket, error) {
	balanced := p.Proto == headers.TCP && (p.Flags == 0 || p.Flags == headers.SYN) || p.Proto == headers.UDP
	if a.request.Packets || !balanced || p.From != trace.FromPod && p.From != trace.FromNode {
		return nil, nil
	}
	s, err := a.tracer.Socket(p.Src, p.Dst, p.Proto, a.netns(*p))
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	out := &agentapi.TraceSocket{Balanced: s.Balanced, Backends: s.Backends}
	switch {
	case !s.Balanced:
		out.Text = fmt.Sprintf("connect() to %s is left as it is: %s", p.Dst, s.Why)
		return out, nil
	case len(s.Backends) == 1:
		out.Text = fmt.Sprintf("connect() to %s goes to %s", p.Dst, s.Backends[0])
	case s.Last.IsValid():
		out.Text = fmt.Sprintf("connect() to %s goes to %s, where its earlier one went (affinity, %d s)", p.Dst, s.Last, s.Affinity)
		p.Dst = s.Last
		return out, nil
	default:
		out.Text = fmt.Sprintf("connect() to %s goes to any of %d backends; below: %s", p.Dst, len(s.Backends), s.Example)
	}
	if s.Affinity > 0 {
		out.Text += fmt.Sprintf("; the next ones go there, too (affinity, %d s)", s.Affinity)
	}
	p.Dst = s.Example
	return out, nil
}

// netns is the cookie of the network namespace that a packet's socket is in, 0
// where it can't be had.
func (a *asked) netns(p trace.Packet) uint64 {
	if p.From == trace.FromNode {
		return cookie(func(f func() error) error { return f() })
	}
	pod, ok := a.pod(p.Src.Addr().String())
	if !ok || pod.Netns == "" {
		return 0
	}
	ns, err := netns.Open(pod.Netns)
	if err != nil {
		return 0
	}
	defer ns.Close()
	return cookie(ns.Do)
}

// cookie is the cookie of the network namespace that do works in.
func cookie(do func(func() error) error) (cookie uint64) {
	err := do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0
	}
	return cookie
}

// whetherAnnounced says if packets for the address come here at all.
func (a *asked) whetherAnnounced(p trace.Packet) {
	for _, s := range a.opts.View.Services() {
		if s.Frontend.Addr() == p.Dst.Addr() && s.Kind == "LoadBalancer" && !a.tracer.Announced(p.Dst.Addr(), p.Link) {
			a.note("%s is not answered for by this node on %s now: another node gets such packets", p.Dst.Addr(), a.device(p.Link))
			return
		}
	}
}

func (a *asked) device(index int) string {
	for _, n := range a.opts.View.NICs() {
		if n.Index == index {
			return n.Name
		}
	}
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return ""
}

// walk puts a walk into words.
func (a *asked) walk(w *trace.Walk) agentapi.TraceWalk {
	var out agentapi.TraceWalk
	for _, h := range w.Hops {
		hop := agentapi.TraceHop{Program: h.Program, Device: a.device(h.Link), Packet: headers.Read(h.In).String()}
		for _, l := range h.Lines {
			hop.Steps = append(hop.Steps, agentapi.TraceStep{Topic: l.Topic, Text: l.Text})
		}
		out.Hops = append(out.Hops, hop)
	}
	out.End = a.end(w.End)
	return out
}

func (a *asked) end(e trace.End) agentapi.TraceEnd {
	h := headers.Read(e.Frame)
	out := agentapi.TraceEnd{Kind: string(e.Kind), Device: a.device(e.Link), Reason: e.Reason}
	names := a.names()
	switch e.Kind {
	case trace.EndPod:
		out.Text = "delivered to pod " + strings.TrimSpace(names.Pod(h.Dst.Addr())+" "+h.Dst.Addr().String())
	case trace.EndNode:
		out.Text = "the node's own"
	case trace.EndWire:
		out.Text = "leaves by " + out.Device
		if e.Hop.IsValid() {
			out.Text += ", to " + e.Hop.String()
		}
		if mac, peer := a.tracer.PeerMAC(e.Link, e.Hop); peer && e.Hop.IsValid() {
			own, _ := a.tracer.NICMAC(e.Link)
			out.Next = continued(h, "--mac "+net.HardwareAddr(own[:]).String())
			out.Hop, out.Onward = e.Hop, &agentapi.TraceRequest{Frame: addressed(e.Frame, own, mac)}
		}
	case trace.EndTunnel:
		out.Text = "through the tunnel to " + e.Hop.String()
		own := sourceTo(e.Hop)
		out.Next = continued(h, "--tunnel "+own.String())
		out.Hop, out.Onward = e.Hop, &agentapi.TraceRequest{Frame: e.Frame, Tunnel: own}
	case trace.EndAnswered:
		out.Text = "answered here: " + h.String()
	case trace.EndRefused:
		out.Text = fmt.Sprintf("dropped (%s), and refused to the sender: %s", trace.ReasonText(e.Reason), h)
	case trace.EndDropped:
		out.Text = fmt.Sprintf("dropped: %s", trace.ReasonText(e.Reason))
	}
	return out
}

// addressed is a frame with the MACs that it has on the wire.
func addressed(frame []byte, src, dst [6]byte) []byte {
	return slices.Concat(dst[:], src[:], frame[12:])
}

// sourceTo is the address that this node sends from to another one.
func sourceTo(node netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(node, tunnelPort))) // sends nothing
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		return local.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// tunnelPort is any port: it doesn't matter to the way that is taken.
const tunnelPort = 4789

// continued is the command that goes on at the next node.
func continued(h headers.Header, more string) string {
	text := fmt.Sprintf("patchbayctl trace %s %s --proto %s", h.Src, h.Dst, strings.ToLower(h.Proto.String()))
	if h.Proto == headers.TCP && h.Flags != headers.SYN {
		text += " --flags ack"
	}
	return text + " " + more
}

// nic finds a NIC by the name asked for, or by which an address would come.
func (a *asked) nic(src netip.Addr) (agentapi.NIC, error) {
	nics := slices.DeleteFunc(slices.Clone(a.opts.View.NICs()), func(n agentapi.NIC) bool { return n.Role == "" || n.Role == "ignored" })
	if a.request.NIC != "" {
		for _, n := range nics {
			if n.Name == a.request.NIC {
				return n, nil
			}
		}
		return agentapi.NIC{}, fmt.Errorf("NIC %s: the node has no internal or external NIC of that name", a.request.NIC)
	}
	for _, n := range nics {
		if slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Contains(src) }) {
			return n, nil
		}
	}
	for _, n := range nics {
		if _, ok := a.tracer.PeerMAC(n.Index, src); ok {
			return n, nil
		}
	}
	for _, role := range []string{"external", "internal"} {
		for _, n := range nics {
			if strings.Contains(n.Role, role) {
				a.note("it is taken to come in by %s; --nic says otherwise", n.Name)
				return n, nil
			}
		}
	}
	return agentapi.NIC{}, fmt.Errorf("the node has no internal or external NIC")
}
