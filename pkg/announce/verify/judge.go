// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// maxPorts is how many of an address's ports are looked at.
const maxPorts = 3

// front is a TCP port of an address that this node may connect to.
type front struct {
	port uint16
	// elsewhere: a connection may be expected to be answered: not so many of its
	// backends are on this node that all tries may end there.
	elsewhere bool
}

// frontends are the ports of an address to look at: the one given, or the first ones.
func frontends(entries []service.Entry, addr, from netip.Addr, port uint16) []front {
	var out []front
	for _, e := range entries {
		f := e.Frontend
		known := slices.ContainsFunc(out, func(o front) bool { return o.port == f.Port })
		if f.IP != addr || f.Protocol != service.TCP || known || port != 0 && f.Port != port || len(out) == maxPorts || !admits(e.SourceRanges, from) {
			continue
		}
		out = append(out, front{f.Port, expectable(e)})
	}
	if port != 0 && len(out) == 0 {
		return []front{{port: port}}
	}
	return out
}

func admits(ranges []netip.Prefix, from netip.Addr) bool {
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(from) })
}

// expectable tells whether one of the tries must be answered: at most half of
// the backends are on this node, and the choice isn't made by address. A
// frontend without backends refuses, or drops.
func expectable(e service.Entry) bool {
	local := 0
	for _, b := range e.Backends {
		if b.Local {
			local++
		}
	}
	if len(e.Backends) == 0 {
		return e.Empty == service.Reject
	}
	return 2*local <= len(e.Backends) && (e.Affinity == 0 || local == 0)
}

// judge tells what is wrong with what was seen, "" if nothing is.
func judge(r Result, fronts []front) string {
	switch {
	case len(r.AnsweredBy) == 0:
		return fmt.Sprintf("nobody answers for %s on the external network, asked by %s", r.Addr, r.By)
	case len(r.AnsweredBy) > 1:
		return fmt.Sprintf("%s is answered for by %s", r.Addr, strings.Join(r.AnsweredBy, " and "))
	case r.Owner != "" && r.AnsweredBy[0] != r.Owner:
		return fmt.Sprintf("%s is answered for by %s, not by %s", r.Addr, r.AnsweredBy[0], r.Owner)
	}
	for _, p := range r.Ports {
		expected := slices.ContainsFunc(fronts, func(f front) bool { return f.port == p.Port && f.elsewhere })
		if p.Answer == Silent && expected {
			return fmt.Sprintf("%s answers no connection from %s, %d tried", netip.AddrPortFrom(r.Addr, p.Port), r.By, p.Tries)
		}
	}
	return ""
}

// names tells nodes by their external NICs' MAC addresses.
type names map[[6]byte]string

func (n names) of(mac [6]byte) string {
	if name, ok := n[mac]; ok {
		return name
	}
	return net.HardwareAddr(mac[:]).String()
}

// names knows all nodes that have told of themselves.
func (v *Verifier) names() names {
	view, out := v.View(), names{}
	for _, n := range view.Own.NICs {
		out[n.MAC] = v.Node
	}
	for name, p := range view.Peers {
		for _, n := range p.State.NICs {
			out[n.MAC] = name
		}
	}
	return out
}
