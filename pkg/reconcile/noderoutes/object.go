// SPDX-License-Identifier: Apache-2.0

package noderoutes

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/custom"
)

// toRoute converts a spec that has its defaults and is valid.
func toRoute(s *v1alpha1.NodeRouteSpec) (custom.Route, error) {
	dst, err := parseDestination(s.Destination)
	if err != nil {
		return custom.Route{}, err
	}
	r := custom.Route{Interface: s.Interface, Dst: dst}
	if s.NextHop != "" {
		if r.Via, err = netip.ParseAddr(s.NextHop); err != nil {
			return custom.Route{}, err
		}
	}
	if s.Metric != nil {
		r.Metric = int(*s.Metric)
	}
	return r, nil
}

// parseDestination takes a prefix, or an address for its full-length prefix.
func parseDestination(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// toObject is the NodeRoute, for all nodes, that a route becomes.
func toObject(r custom.Route) *v1alpha1.NodeRoute {
	metric := int32(r.Metric)
	o := &v1alpha1.NodeRoute{
		ObjectMeta: metav1.ObjectMeta{Name: objectName(r)},
		Spec:       v1alpha1.NodeRouteSpec{Interface: r.Interface, Destination: r.Dst.String(), Metric: &metric},
	}
	if r.Via.IsValid() {
		o.Spec.NextHop = r.Via.String()
	}
	return o
}

// objectName derives the name of a NodeRoute from what names the route. What
// can't stand in a name is told apart by a sum.
func objectName(r custom.Route) string {
	text := r.Interface + "-" + r.Dst.String()
	sum := fnv.New32a()
	sum.Write([]byte(text))
	plain := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return '-'
	}, text)
	return fmt.Sprintf("route-%s-%08x", plain, sum.Sum32())
}

// parse checks a route as asked for by the rules of the NodeRoute that it may become.
func parse(a agentapi.RouteAdd) (custom.Route, error) {
	metric := int32(cmp.Or(a.Metric, 100))
	if int(metric) != cmp.Or(a.Metric, 100) {
		return custom.Route{}, fmt.Errorf("%w: metric %d is too large", custom.ErrRefused, a.Metric)
	}
	o := &v1alpha1.NodeRoute{
		ObjectMeta: metav1.ObjectMeta{Name: "asked for"},
		Spec:       v1alpha1.NodeRouteSpec{Interface: a.Interface, Destination: a.Destination, NextHop: a.NextHop, Metric: &metric},
	}
	if err := o.Validate(); err != nil {
		return custom.Route{}, plainly(err)
	}
	return toRoute(&o.Spec)
}

// plainly leaves out of a validation's error where in the object it was.
func plainly(err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "NodeRoute asked for: spec.")
	}
	return fmt.Errorf("%w: %s", custom.ErrRefused, strings.Join(lines, "; "))
}

// toAPI converts for the agent's API.
func toAPI(v custom.Verdict) agentapi.Route {
	return agentapi.Route{
		Interface: v.Interface, Destination: v.Dst, NextHop: v.Via, Metric: v.Metric, NodeRoute: v.Object,
		State: string(v.State), Message: v.Message,
	}
}
