// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is a route of ours in the main table. It is comparable: the zero value
// of a field leaves it out.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // next hop, taken to be on the link; zero: directly on the link
	Link   int
	Src    netip.Addr // preferred source
	MTU    int
	Metric int
}

// String names the route for errors.
func (r Route) String() string { return fmt.Sprintf("%s via %s link %d", r.Dst, r.Via, r.Link) }

// SyncRoutes makes want the routes of protocol 80, except those over pods' host
// ends, which belong to the CNI plugin. New ones go in before old ones go out.
// One that the kernel refuses doesn't stop the rest.
func SyncRoutes(want []Route) error {
	refused, err := SyncRoutesOf(Protocol, want)
	errs := []error{err}
	for _, err := range refused {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// SyncRoutesOf is SyncRoutes for any protocol. It returns by route why the
// kernel refused it, and what else went wrong.
func SyncRoutesOf(protocol netlink.RouteProtocol, want []Route) (refused map[Route]error, err error) {
	have, err := routesOf(protocol)
	if err != nil {
		return nil, err
	}
	refused = make(map[Route]error)
	wanted := make(map[routeKey]bool, len(want))
	for _, r := range want {
		wanted[r.key()] = true
		if have[r.key()] == r.comparable() {
			continue
		}
		if err := netlink.RouteReplace(r.netlink(protocol)); err != nil {
			refused[r] = fmt.Errorf("set route %s: %w", r, err)
		}
	}
	var errs []error
	for key, r := range have {
		if wanted[key] {
			continue
		}
		if err := netlink.RouteDel(r.netlink(protocol)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r, err))
		}
	}
	return refused, errors.Join(errs...)
}

// routeKey is what the kernel tells routes of one table apart by when it
// replaces them: IPv6 also keeps routes over different links apart.
type routeKey struct {
	dst    netip.Prefix
	metric int
	link   int
}

func (r Route) key() routeKey {
	k := routeKey{dst: r.Dst.Masked(), metric: r.Metric}
	if r.Dst.Addr().Is6() {
		k.link = r.Link
		if k.metric == 0 {
			k.metric = ipv6Metric
		}
	}
	return k
}

// ipv6Metric is what the kernel takes for an IPv6 route without a metric.
const ipv6Metric = 1024

// comparable is the route as the kernel's list has it.
func (r Route) comparable() Route {
	if r.Dst.Addr().Is6() && r.Metric == ipv6Metric {
		r.Metric = 0
	}
	return r
}

func (r Route) netlink(protocol netlink.RouteProtocol) *netlink.Route {
	out := &netlink.Route{
		Dst: toIPNet(r.Dst.Masked()), LinkIndex: r.Link, Src: toIP(r.Src), MTU: r.MTU, Priority: r.Metric,
		Protocol: protocol, Family: family(r.Dst.Addr()), Table: unix.RT_TABLE_MAIN,
	}
	if r.Via.IsValid() {
		out.Gw = toIP(r.Via)
		out.Flags = int(netlink.FLAG_ONLINK)
	} else if r.Dst.Addr().Is4() {
		out.Scope = netlink.SCOPE_LINK
	}
	return out
}

// routesOf lists the routes of a protocol that are not pods'. The links are
// listed after the routes, or the route of a pod that is made meanwhile would
// seem to be over a link that is nobody's.
func routesOf(protocol netlink.RouteProtocol) (map[routeKey]Route, error) {
	raw, err := Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	links, err := PodLinks()
	if err != nil {
		return nil, err
	}
	pods := make(map[int]bool, len(links))
	for _, l := range links {
		pods[l.Index] = true
	}
	routes := make(map[routeKey]Route, len(raw))
	for _, n := range raw {
		if pods[n.LinkIndex] {
			continue
		}
		r := Route{Dst: toPrefix(n.Dst), Via: toAddr(n.Gw), Link: n.LinkIndex, Src: toAddr(n.Src), MTU: n.MTU, Metric: n.Priority}
		routes[r.key()] = r.comparable()
	}
	return routes, nil
}

// Way returns the link that the kernel would send packets to addr out of, 0 if
// it knows no way.
func Way(addr netip.Addr) (link int) {
	routes, err := netlink.RouteGet(toIP(addr))
	if err != nil || len(routes) == 0 {
		return 0
	}
	return routes[0].LinkIndex
}
