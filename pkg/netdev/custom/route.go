// SPDX-License-Identifier: Apache-2.0

// Package custom keeps the routes that an operator gives a node beside the
// system's own: to a camera network behind a gateway, say. They have a protocol
// number of their own, are in force as long as their interface can carry them,
// and are put back when somebody takes them away.
//
// What is asked for is remembered on disk by Store and kept in the kernel by
// Keeper. Nothing of the system's is ever changed for them: a route that could
// is refused, with the reason.
package custom

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Route is a custom route. Interface and Dst name it: there is one to a
// destination over an interface.
type Route struct {
	Interface string       `json:"interface"`
	Dst       netip.Prefix `json:"destination"`
	Via       netip.Addr   `json:"nextHop,omitzero"` // zero: the destination is on the link
	Metric    int          `json:"metric"`           // the lowest goes first
}

// String names the route as patchbayctl would be told it.
func (r Route) String() string {
	if !r.Via.IsValid() {
		return fmt.Sprintf("%s over %s, metric %d", r.Dst, r.Interface, r.Metric)
	}
	return fmt.Sprintf("%s over %s via %s, metric %d", r.Dst, r.Interface, r.Via, r.Metric)
}

// Names tells whether interface and destination are the route's.
func (r Route) Names(iface string, dst netip.Prefix) bool {
	return r.Interface == iface && r.Dst == dst
}

// Record is a route with where it comes from.
type Record struct {
	Route
	// Object is the NodeRoute that it is of; empty if it was given on this node.
	Object string `json:"object,omitempty"`
	// Everywhere: given on this node for all, and no NodeRoute yet.
	Everywhere bool `json:"everywhere,omitempty"`
}

// compare orders records: those given on the node first, then by name.
func compare(a, b Record) int {
	return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Interface, b.Interface), a.Dst.Compare(b.Dst))
}

// State is what became of a route.
type State string

// The states, named as in the NodeRoute's status.
const (
	Applied State = "Applied" // in force
	Waiting State = "Waiting" // its interface can't carry it just now
	Refused State = "Refused" // it must be put right first
)

// Verdict is a route with its state and the reason.
type Verdict struct {
	Record
	State   State
	Message string
	link    int
}

// Foreign is a route of the main table that isn't custom.
type Foreign struct {
	Dst    netip.Prefix
	Metric int
	Link   int
	Owner  string // who set it
}

// facts are what routes are judged by.
type facts struct {
	links   []netdev.Link
	foreign []Foreign
	cluster []netip.Prefix // ranges of pods and Services
	device  bool           // this is the device's host, not a node
}

// judge says of each record whether it can be in force. Of two that don't go
// together the first in order stays.
func judge(records []Record, f facts) []Verdict {
	records = slices.SortedFunc(slices.Values(records), compare)
	verdicts := make([]Verdict, 0, len(records))
	for _, r := range records {
		v := f.verdict(r)
		if clash := clashes(v, verdicts); clash != "" && v.State != Refused {
			v.State, v.Message = Refused, clash
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// verdict judges a route alone.
func (f facts) verdict(r Record) Verdict {
	refuse := func(format string, args ...any) Verdict {
		return Verdict{Record: r, State: Refused, Message: fmt.Sprintf(format, args...)}
	}
	if f.device {
		return refuse("this is the device's host, which has switches: routes are for the nodes on it")
	}
	if i := slices.IndexFunc(f.cluster, func(p netip.Prefix) bool { return p.Bits() <= r.Dst.Bits() && p.Contains(r.Dst.Addr()) }); i >= 0 {
		return refuse("%s is in the cluster's own range %s", r.Dst, f.cluster[i])
	}
	i := slices.IndexFunc(f.links, func(l netdev.Link) bool { return l.Named(r.Interface) })
	if i < 0 {
		return refuse("no interface %s on this node; there are %s", r.Interface, names(f.links))
	}
	l := f.links[i]
	fam := familyName(r.Dst.Addr())
	switch {
	case l.Dynamic.Of(r.Dst.Addr()):
		return refuse("%s has a dynamic %s address (%s); a custom route needs a static configuration", r.Interface, fam, source(fam))
	case !l.Up:
		return Verdict{Record: r, State: Waiting, Message: r.Interface + " is down", link: l.Index}
	case r.Via.IsLinkLocalUnicast() && r.Via.Is6():
	case r.Via.IsValid() && slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == r.Via }):
		return refuse("next hop %s is this node's own address", r.Via)
	case r.Via.IsValid() && !l.OnSubnet(r.Via):
		return refuse("next hop %s is not on the link: %s has %s", r.Via, r.Interface, addresses(l, fam))
	case !r.Via.IsValid() && !hasFamily(l, r.Dst.Addr()):
		return refuse("%s has no static %s address", r.Interface, fam)
	}
	v := Verdict{Record: r, State: Applied, link: l.Index}
	if i := slices.IndexFunc(f.cluster, r.Dst.Overlaps); i >= 0 {
		v.Message = fmt.Sprintf("%s in it stays the cluster's", f.cluster[i])
	}
	for _, o := range f.foreign {
		if o.Dst != r.Dst {
			continue
		}
		if o.Metric == r.Metric {
			return refuse("%s with metric %d is there already, set by %s; choose another metric", r.Dst, r.Metric, o.Owner)
		}
		if o.Metric < r.Metric {
			v.Message = fmt.Sprintf("a route to %s with metric %d, set by %s, goes first", o.Dst, o.Metric, o.Owner)
		}
	}
	return v
}

// clashes says why a route can't stand beside those before it.
func clashes(v Verdict, before []Verdict) string {
	for _, o := range before {
		switch {
		case o.Route == v.Route || o.Dst != v.Dst || o.State == Refused:
		case o.Interface == v.Interface || o.link == v.link && v.link != 0:
			return fmt.Sprintf("%s is routed over %s already, with metric %d%s: one destination has one custom route per interface, "+
				"since interface and prefix are enough to remove it; remove that one first", v.Dst, o.Interface, o.Metric, by(o.Record))
		case o.Metric == v.Metric:
			return fmt.Sprintf("%s has metric %d over %s already%s; over two interfaces it needs two metrics", v.Dst, v.Metric, o.Interface, by(o.Record))
		}
	}
	return ""
}

func by(r Record) string {
	if r.Object == "" {
		return ""
	}
	return ", by NodeRoute " + r.Object
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func source(family string) string {
	if family == "IPv4" {
		return "DHCP"
	}
	return "router advertisement or DHCPv6"
}

func hasFamily(l netdev.Link, a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() })
}

// addresses lists a link's addresses of a family.
func addresses(l netdev.Link, family string) string {
	var text string
	for _, p := range l.Addrs {
		if familyName(p.Addr()) == family {
			text += " " + p.String()
		}
	}
	if text == "" {
		return "no static " + family + " address"
	}
	return text[1:]
}

// names lists links by name.
func names(links []netdev.Link) string {
	var text string
	for _, l := range links {
		text += ", " + l.Name
	}
	if text == "" {
		return "none"
	}
	return text[2:]
}
