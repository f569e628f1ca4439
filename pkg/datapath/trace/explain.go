// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf/asm"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/replica"
)

// Flags of bpf/lib/packet.h that are told.
const (
	packetCluster = 1 << 6
	packetKnown   = 1 << 7
)

// verdictPass is what a stage returns that leaves the packet to the stack.
const verdictPass = 1

// teller turns a program's replica.Steps into words.
type teller struct {
	*Tracer
	in    replica.Input
	out   replica.Output
	lines []Line
}

func (l *teller) say(topic, format string, args ...any) {
	l.lines = append(l.lines, Line{topic, fmt.Sprintf(format, args...)})
}

// explain says what a program did.
func (t *Tracer) explain(in replica.Input, out replica.Output) []Line {
	l := &teller{Tracer: t, in: in, out: out}
	l.tell(out.Steps)
	l.verdict()
	return l.lines
}

func (l *teller) tell(steps []replica.Step) {
	for i, s := range steps {
		after := s.Packet
		if i+1 < len(steps) {
			after = steps[i+1].Packet
		}
		l.stage(s, after)
	}
}

// stage says what a stage did; after is what it left behind in the packet's
// context.
func (l *teller) stage(s replica.Step, after replica.Context) {
	src, dst, proto := ends(s.Packet.Tuple)
	switch s.Name {
	case "parse":
		if s.Ret == verdictPass {
			l.say("packet", "not plain IP")
		}
	case "pod_source":
		if s.Ret == 0 {
			l.say("source", "%s and its MAC are the pod's own", l.opts.Names.pod(src.Addr()))
		} else if s.Ret == verdictPass {
			l.say("source", "multicast, or the link's own: left to the stack")
		}
	case "uplink_source", "tunnel_source":
		if s.Ret == 0 {
			l.say("source", "%s", sourceText(src.Addr(), after.Flags))
		}
		return // one calls the other
	case "uplink_tunnel":
		if s.Ret == verdictPass {
			l.say("source", "a tunnel packet of a node that we know")
		}
	case "known_flow":
		if s.Ret == 0 {
			l.say("flow", "none is known for %s → %s %s", src, dst, proto)
		} else if len(s.Steps) > 0 {
			l.say("flow", "known%s", flowText(sendOf(s).Flow))
		}
	case "known_error":
		if s.Ret != 0 {
			l.say("flow", "an ICMP error about a flow: the packet that it quotes is translated, too")
		}
	case "to_service":
		l.service(s)
	case "begin_flow":
		l.begin(s)
	case "to_direct":
		if s.Ret != 0 {
			l.say("flow", "the answers' tuple is a Service's flow's: it gets another source port")
		}
	case "as_node":
		if s.Ret == 0 {
			l.say("translation", "the backend is outside the cluster: it sees the node as its client")
		}
	case "remember_way":
		l.say("flow", "the way back to the client outside is remembered")
	case "send":
		l.send(s)
	}
	l.tell(s.Steps)
}

// ends are a tuple's, as people write them.
func ends(k objects.MapFlowKey) (src, dst netip.AddrPort, proto headers.Protocol) {
	return netip.AddrPortFrom(k.Saddr.Netip(), objects.Port(k.Sport)), netip.AddrPortFrom(k.Daddr.Netip(), objects.Port(k.Dport)), headers.Protocol(k.Proto)
}

func sourceText(src netip.Addr, flags uint8) string {
	switch {
	case flags&packetCluster != 0:
		return src.String() + " is the cluster's, in a node's frame"
	case flags&packetKnown != 0:
		return src.String() + " is outside, and knows pods' own addresses"
	}
	return src.String() + " is outside the cluster"
}

// sendOf finds what a stage sent.
func sendOf(s replica.Step) replica.Step {
	for _, child := range s.Steps {
		if child.Name == "send" {
			return child
		}
	}
	return replica.Step{}
}

func flowText(f objects.MapFlow) string {
	text := ""
	for _, flag := range []struct {
		bit  objects.MapFlowFlags
		text string
	}{
		{objects.MapFlowFlagsFLOW_REPLY, "the answers' direction"},
		{objects.MapFlowFlagsFLOW_RETURN, "the way back to a client outside"},
		{objects.MapFlowFlagsFLOW_ANSWERED, "answered"},
		{objects.MapFlowFlagsFLOW_FIN, "one side has said FIN"},
		{objects.MapFlowFlagsFLOW_CLOSING, "closing"},
		{objects.MapFlowFlagsFLOW_APART, "only for packets of the node that sent its first one"},
	} {
		if f.Flags&uint8(flag.bit) != 0 {
			text += ", " + flag.text
		}
	}
	return text
}

// service says whether the destination is a Service's.
func (l *teller) service(s replica.Step) {
	_, dst, proto := ends(s.Packet.Tuple)
	if len(s.Steps) > 0 && s.Steps[0].Name == "begin_flow" {
		return
	}
	switch l.Reason(s.Ret) {
	case "":
		if s.Ret == 0 {
			l.say("frontend", "no Service has %s %s; %s", dst, proto, l.kindText(dst.Addr()))
		} else if len(s.Steps) > 0 && s.Steps[0].Name == "answer_echo" {
			l.say("frontend", "%s is a Service's: its ping is answered here", dst.Addr())
		}
	case "no-service":
		l.say("frontend", "%s is a Service's, and has no port %d %s", dst.Addr(), dst.Port(), proto)
	}
}

// kindText says what an address is to this node.
func (l *teller) kindText(a netip.Addr) string {
	r := l.routeOf(a)
	node := l.opts.Names.node(r.Hop.Netip())
	switch objects.MapRouteKind(r.Kind) {
	case objects.MapRouteKindROUTE_LOCAL_PODS:
		return "the address is in this node's pod range"
	case objects.MapRouteKindROUTE_NATIVE:
		return fmt.Sprintf("the address is of a pod of node %s, on our link", node)
	case objects.MapRouteKindROUTE_TUNNEL:
		return fmt.Sprintf("the address is of a pod of node %s, behind the tunnel", node)
	case objects.MapRouteKindROUTE_SERVICE:
		return "the address is in a Service range"
	case objects.MapRouteKindROUTE_CLUSTER:
		return "the address is another node's"
	case objects.MapRouteKindROUTE_UNMASQUERADED:
		return "the address is outside, and sees pods' own addresses"
	case objects.MapRouteKindROUTE_SELF:
		return "the address is this node's own"
	case objects.MapRouteKindROUTE_PODS:
		return "the address is in the pods' ranges, and no node's"
	}
	return "the address is outside the cluster"
}

// begin says how a flow begins.
func (l *teller) begin(s replica.Step) {
	src, dst, proto := ends(s.Packet.Tuple)
	fe := s.Frontend
	name := ""
	if n := l.opts.Names.service(dst, proto); n != "" {
		name = " of Service " + n
	}
	l.say("frontend", "%s %s%s", dst, proto, name)
	reason := l.Reason(s.Ret)
	switch {
	case fe.Ranges == 0:
	case reason == "source-range":
		l.say("source ranges", "%s is in none of %s", src.Addr(), l.ranges(fe.Ranges))
		return
	default:
		l.say("source ranges", "%s is in one of %s", src.Addr(), l.ranges(fe.Ranges))
	}
	if reason == "nodeport-nic" {
		l.say("node port", "closed on %s", l.opts.Names.link(l.in.Link))
		return
	}
	if fe.Affinity > 0 {
		l.say("affinity", "%s", l.affinityText(src.Addr(), fe))
	}
	backends := l.backendsOf(fe.Service)
	tries := 0
	for _, child := range s.Steps {
		if child.Name == "try_backend" {
			tries++
		}
	}
	chosen, ok := l.backend(sendOf(s).Flow.Backend)
	switch {
	case len(backends) == 0:
		l.say("choice", "the Service has no backend here")
	case ok && tries > 1:
		l.say("choice", "%s, of %d, at try %d: others' answers were in the way", chosen, len(backends), tries)
	case ok:
		l.say("choice", "%s, of %d", chosen, len(backends))
	}
}

func (l *teller) affinityText(client netip.Addr, fe objects.MapFrontend) string {
	life := (time.Duration(fe.Affinity) * time.Second).String()
	if old, ok := l.affine(client, fe.Service); ok {
		return fmt.Sprintf("by client, for %s; %s was sent to %s last", life, client, old)
	}
	return fmt.Sprintf("by client, for %s; %s comes for the first time", life, client)
}

// affine is the backend that a client was sent to, before the run.
func (t *Tracer) affine(client netip.Addr, service uint32) (netip.AddrPort, bool) {
	var a objects.MapAffinity
	old, err := t.InForce("affinities")
	if err != nil {
		return netip.AddrPort{}, false
	}
	defer old.Close()
	if old.Lookup(objects.MapAffinityKey{Client: objects.Addr(client), Service: service}, &a) != nil {
		return netip.AddrPort{}, false
	}
	return t.backend(a.Backend)
}

// ranges lists source ranges by their id.
func (t *Tracer) ranges(id uint32) string {
	var all []string
	var key objects.MapRangeKey
	var value uint32
	for it := t.Iterate("source_ranges"); it.Next(&key, &value); {
		if key.Ranges == id && key.Prefixlen >= 32 {
			all = append(all, objects.Prefix(key.Addr, key.Prefixlen-32).String())
		}
	}
	return strings.Join(all, ", ")
}

// send says what a packet becomes and where it goes.
func (l *teller) send(s replica.Step) {
	src, dst, proto := ends(s.Packet.Tuple)
	f := s.Flow
	newSrc := netip.AddrPortFrom(f.Saddr.Netip(), objects.Port(f.Sport))
	newDst := netip.AddrPortFrom(f.Daddr.Netip(), objects.Port(f.Dport))
	if f.Flags&uint8(objects.MapFlowFlagsFLOW_RETURN) == 0 && (newSrc != src || newDst != dst) {
		l.say("translation", "%s → %s becomes %s → %s %s", src, dst, newSrc, newDst, proto)
	}
	l.say("way", "%s", l.wayText(f))
}

func (l *teller) wayText(f objects.MapFlow) string {
	names := l.opts.Names
	switch objects.MapFlowWay(f.Way) {
	case objects.MapFlowWayWAY_POD:
		return "the pod of this node behind " + names.link(int(f.Ifindex)) + ", " + names.pod(f.Daddr.Netip())
	case objects.MapFlowWayWAY_FRAME:
		return fmt.Sprintf("out by %s to the MAC %s, as it came, before any route", names.link(int(f.Ifindex)), mac(f.Dmac))
	case objects.MapFlowWayWAY_NEIGH:
		return fmt.Sprintf("out by %s, next hop %s", names.link(int(f.Ifindex)), names.node(f.Hop.Netip()))
	case objects.MapFlowWayWAY_TUNNEL:
		return "through the tunnel to node " + names.node(f.Hop.Netip())
	case objects.MapFlowWayWAY_HOST:
		return "in again by " + names.link(int(f.Ifindex)) + ": the node asks itself"
	}
	return "the node's own stack"
}

// verdict says what the program's result is.
func (l *teller) verdict() {
	out, names := l.out, l.opts.Names
	if out.Reason != "" {
		l.say("dropped", "%s: %s", out.Reason, ReasonText(out.Reason))
		if out.Verdict == replica.ActRedirect {
			l.say("answer", "%s, to the sender", headers.Read(out.Frame))
		}
		return
	}
	dst := headers.Read(out.Frame).Dst.Addr()
	link := names.link(int(out.Sent.Link))
	cfg, err := l.config()
	switch {
	case out.Verdict == replica.ActUnspec && egress(l.in.Program):
		l.say("verdict", "goes on out by %s", names.link(l.in.Link))
	case out.Verdict == replica.ActUnspec:
		l.say("verdict", "left to the node's stack")
	case answersItself(out.Steps):
		l.say("verdict", "answered: %s", headers.Read(out.Frame))
	case asm.BuiltinFunc(out.Sent.Helper) == asm.FnRedirectPeer:
		l.policy(dst)
		l.say("verdict", "delivered to pod %s, by %s", names.pod(dst), link)
	case err == nil && int(out.Sent.Link) == int(cfg.TunnelIfindex):
		l.say("verdict", "into the tunnel, to node %s", names.node(remote(out.Sent)))
	case asm.BuiltinFunc(out.Sent.Helper) == asm.FnRedirectNeigh && hopOf(out.Sent).IsValid():
		l.say("verdict", "leaves by %s, next hop %s", link, names.node(hopOf(out.Sent)))
	case out.Sent.Flags&toIngress != 0:
		l.say("verdict", "to the node's stack, as if in by %s", link)
	default:
		l.say("verdict", "leaves by %s to the MAC %s", link, mac(headers.Read(out.Frame).DstMAC))
	}
}

func egress(program string) bool { return strings.HasSuffix(program, "_out") }

// policy says what the policy slot of a pod lets through.
func (l *teller) policy(dst netip.Addr) {
	var e objects.MapEndpoint
	if l.Lookup("endpoints", objects.Addr(dst), &e) != nil {
		return
	}
	if e.Policy == 0 {
		l.say("policy", "slot 0: no policy is for the pod, everything may pass")
		return
	}
	l.say("policy", "slot %d lets it pass", e.Policy)
}
