// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// Names give what the maps know by numbers the names that people know. Each may
// be nil.
type Names struct {
	Pod     func(netip.Addr) string                       // namespace/name of this node's
	Service func(netip.AddrPort, headers.Protocol) string // namespace/name of the frontend's
	Node    func(netip.Addr) string                       // that has the address, or is the pod's
	Link    func(index int) string
}

func (n Names) link(index int) string {
	if n.Link != nil {
		if name := n.Link(index); name != "" {
			return name
		}
	}
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// pod names the pod with an address.
func (n Names) pod(a netip.Addr) string {
	if n.Pod != nil {
		if name := n.Pod(a); name != "" {
			return name + " (" + a.String() + ")"
		}
	}
	return a.String()
}

func (n Names) node(a netip.Addr) string {
	if n.Node != nil {
		if name := n.Node(a); name != "" {
			return name + " (" + a.String() + ")"
		}
	}
	return a.String()
}

func (n Names) service(a netip.AddrPort, p headers.Protocol) string {
	if n.Service != nil {
		return n.Service(a, p)
	}
	return ""
}

func mac(b [6]byte) string { return net.HardwareAddr(b[:]).String() }

// viaText says where a route leads.
func viaText(hop, to netip.Addr, n Names) string {
	if !hop.IsValid() || hop == to {
		return to.String() + " on the link"
	}
	return fmt.Sprintf("%s via %s", to, n.node(hop))
}

// ReasonText is what a drop reason, as the counters name it, means.
func ReasonText(reason string) string {
	texts := map[string]string{
		"none": "no reason", "bug": "something that can't be; please report it",
		"malformed":       "its headers are cut or contradict each other",
		"pod-source":      "the pod sent from an address that isn't its own",
		"pod-mac":         "the pod sent from a MAC that isn't its own",
		"pod-arp":         "the pod claimed another's address, or to be a router",
		"pod-tunnel":      "the pod sent a tunnel packet to a node",
		"forged-source":   "a source of the cluster's, and not in a frame of the node that has it",
		"forged-tunnel":   "a tunnel packet that no node of the cluster sent",
		"policy":          "a policy refuses it",
		"pod-outside":     "to a pod's own address from outside the cluster",
		"service-outside": "to a ClusterIP from outside the cluster",
		"no-service":      "no Service has this address and port",
		"no-backend":      "the Service has no backend that may serve it here",
		"source-range":    "the client is in none of the Service's source ranges",
		"nodeport-nic":    "node ports are closed on this NIC",
		"fragment":        "a later fragment for a Service, whose first one wasn't seen",
		"flow-rate":       "more flows begin at once than one processor makes in that time",
		"flows-full":      "there is no room for a new flow",
		"port-clash":      "no tuple is free for the answers to this client's port",
		"no-route":        "no way is known to the backend or pod",
		"no-pod":          "this node has no such pod",
		"third-node":      "it comes from a node, and is for yet another one",
		"too-big":         "it is larger than the way ahead lets through",
		"rewrite":         "the kernel refused to change it",
		"ttl":             "its hop limit is used up",
		"no-flow":         "an ICMP error, RST or answer of no known flow",
		"protocol":        "a fragment of SCTP, whose ports would have to change",
		"route":           "the node's own routes lead nowhere",
		"masquerade":      "the node's own rules keep in what nobody outside would know",
	}
	if text, ok := texts[reason]; ok {
		return text
	}
	return "see bpf/lib/reasons.h"
}
