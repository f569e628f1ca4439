// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing/poolspec"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// block is a range that the node gives addresses out of.
type block struct {
	prefix   netip.Prefix
	pool     string // empty: it stands in the Node object
	draining bool
	revision int64
	single   bool // one address, which was asked for
}

func (b block) is4() bool { return b.prefix.Addr().Is4() }

// planner makes the plan for one pod.
type planner struct {
	wish    wish
	blocks  []block
	pools   map[string]*v1alpha1.IPPool
	ranges  []netip.Prefix // of all pods and Services
	objects *source.Store
	held    map[netip.Addr]bool // by anybody
	wants   []want
	refused error
	rest    time.Duration
}

// planner returns one for a wish. The lock is held.
func (t *Table) planner(w wish) *planner {
	p := &planner{wish: w, blocks: t.blocks, pools: t.pools, ranges: t.Ranges, objects: t.objects, held: map[netip.Addr]bool{}}
	if len(w.addrs) == 0 && len(w.legs) == 0 {
		return p
	}
	contents, err := t.Leases.List()
	if err != nil {
		p.refused = agentapi.Errorf(agentapi.CodeTryLater, "%v", err)
	}
	for _, l := range contents.Leases {
		for _, a := range l.Addrs {
			p.held[a] = true
		}
	}
	return p
}

// failure is why there is no plan.
func (p *planner) failure() error {
	if p.refused != nil || len(p.wants) == 0 {
		return p.refused
	}
	var lacks []string
	for _, w := range p.wants {
		if w.addr != "" {
			lacks = append(lacks, "address "+w.addr)
		} else {
			lacks = append(lacks, "an address of pool "+w.pool)
		}
	}
	return agentapi.Errorf(agentapi.CodeTryLater, "this node has no block yet for %s; if it stays so, the events of the Node say why", strings.Join(lacks, ", "))
}

func (p *planner) plan() agentapi.PodPlan {
	var out agentapi.PodPlan
	for _, is4 := range []bool{true, false} {
		if p.wish.foreign {
			break
		}
		if set := p.family(is4); len(set.Subnets) > 0 {
			out.Pools = append(out.Pools, set)
		}
	}
	for _, l := range p.wish.legs {
		if leg, err := p.leg(l); err != nil {
			p.refused = cmp.Or(p.refused, err)
		} else {
			out.Legs = append(out.Legs, leg)
		}
	}
	out.CoolDown = p.rest
	return out
}

// family is what a pod may have of one family: none if none is for it.
func (p *planner) family(is4 bool) agentapi.AddressPool {
	var fixed []netip.Addr
	for _, a := range p.wish.addrs {
		if a.Is4() == is4 {
			fixed = append(fixed, a)
			p.refused = cmp.Or(p.refused, p.barred(a, v1alpha1.UsePod))
		}
	}
	if p.refused != nil {
		return agentapi.AddressPool{}
	}
	if len(fixed) > 0 {
		return p.fixed(fixed, p.podBlock)
	}
	for _, pools := range [][]string{p.wish.pools, p.ofNamespace()} {
		if named := p.withFamily(pools, is4); len(named) > 0 {
			return p.named(named, is4)
		}
		if len(p.wish.pools) > 0 {
			if missing := p.unknown(p.wish.pools); missing != "" {
				p.wants = append(p.wants, want{pool: missing})
			}
			return agentapi.AddressPool{} // what it names has no such addresses
		}
	}
	return p.general(is4)
}

func (p *planner) unknown(pools []string) string {
	i := slices.IndexFunc(pools, func(name string) bool { return p.pools[name] == nil })
	if i < 0 {
		return ""
	}
	return pools[i]
}

// withFamily picks the pools for pods that have addresses of a family. One that
// isn't for the pod's namespace can't be named.
func (p *planner) withFamily(names []string, is4 bool) []string {
	var out []string
	for _, name := range names {
		obj := p.pools[name]
		if obj == nil || obj.Spec.Use != v1alpha1.UsePod {
			continue
		}
		if !p.admits(obj) {
			p.refused = cmp.Or(p.refused, refuse("pool %s is not for the pod's namespace", name))
			continue
		}
		has := func(text string) bool {
			prefix, err := netip.ParsePrefix(text)
			return err == nil && prefix.Addr().Is4() == is4
		}
		if slices.ContainsFunc(obj.Spec.CIDRs, has) {
			out = append(out, name)
		}
	}
	return out
}

// ofNamespace are the pools that are for the pod's namespace in particular, best
// first.
func (p *planner) ofNamespace() []string {
	var names []string
	for name, obj := range p.pools {
		s := obj.Spec
		if s.Use == v1alpha1.UsePod && s.NamespaceSelector != nil && !s.Disabled && *s.AutoAssign && p.admits(obj) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.pools[b].Spec.Priority, p.pools[a].Spec.Priority), cmp.Compare(a, b))
	})
	return names
}

// named takes from pools by name; where the node has no block of any of them, one
// of the first is wanted.
func (p *planner) named(names []string, is4 bool) agentapi.AddressPool {
	set := agentapi.AddressPool{Name: strings.Join(names, "+")}
	for _, b := range p.blocks {
		if !b.draining && !b.single && b.is4() == is4 && slices.Contains(names, b.pool) {
			set.Subnets = append(set.Subnets, p.subnet(b))
		}
	}
	if len(set.Subnets) == 0 {
		p.wants = append(p.wants, want{pool: names[0]})
	}
	return set
}

// general takes from the blocks of the pools that are for everybody, or where
// there are none from the Node's own ranges.
func (p *planner) general(is4 bool) agentapi.AddressPool {
	set := agentapi.AddressPool{Name: "pods"}
	drained, own := "", false
	for _, b := range p.blocks {
		obj := p.pools[b.pool]
		switch {
		case b.is4() != is4 || b.single:
		case b.pool == "":
			own = true
		case b.draining:
			drained = b.pool
		case obj == nil || isGeneral(obj):
			set.Subnets = append(set.Subnets, p.subnet(b))
		}
	}
	for _, b := range p.blocks {
		if own && b.pool == "" && b.is4() == is4 {
			set.Subnets = append(set.Subnets, p.subnet(b))
		}
	}
	if len(set.Subnets) == 0 && drained != "" {
		p.wants = append(p.wants, want{pool: drained})
	}
	return set
}

// subnet is a block without what its pool keeps out of it.
func (p *planner) subnet(b block) agentapi.Subnet {
	s := agentapi.Subnet{Prefix: b.prefix}
	obj := p.pools[b.pool]
	if obj == nil {
		return s
	}
	s.Exclude = slices.DeleteFunc(poolspec.Never(obj), func(r netip.Prefix) bool { return !r.Overlaps(b.prefix) })
	p.rest = max(p.rest, obj.Spec.CoolDown.Duration)
	return s
}

// podBlock returns the node's block for pods that has an address.
func (p *planner) podBlock(a netip.Addr) (netip.Prefix, bool) {
	for _, b := range p.blocks {
		if obj := p.pools[b.pool]; !b.draining && b.prefix.Contains(a) && (obj == nil || obj.Spec.Use == v1alpha1.UsePod && p.admits(obj)) {
			return b.prefix, true
		}
	}
	return netip.Prefix{}, false
}

// fixed takes one of certain addresses: those that the node has; if they are all
// held, or it has none, the others are wanted.
func (p *planner) fixed(addrs []netip.Addr, network func(netip.Addr) (netip.Prefix, bool)) agentapi.AddressPool {
	set := agentapi.AddressPool{Name: "fixed"}
	var missing []want
	free := false
	for _, a := range addrs {
		prefix, ok := network(a)
		if !ok {
			missing = append(missing, want{addr: a.String()})
			continue
		}
		set.Subnets = append(set.Subnets, agentapi.Subnet{Prefix: prefix.Masked(), First: a, Last: a})
		free = free || !p.held[a]
	}
	if !free {
		p.wants = append(p.wants, missing...)
	}
	return set
}

// leg plans one leg.
func (p *planner) leg(l legWish) (agentapi.Leg, error) {
	leg := agentapi.Leg{IfName: l.Interface, Bridge: l.kind.Bridge(), MAC: l.MAC, MTU: l.MTU}
	for _, fixed := range l.addrs {
		pool, err := p.fixedLeg(l, fixed)
		if err != nil {
			return leg, err
		}
		leg.Pools = append(leg.Pools, pool)
	}
	if len(l.addrs) > 0 {
		return leg, nil
	}
	names := l.Pools
	if len(names) == 0 {
		names = p.ofSwitch(l.kind)
	}
	if len(names) == 0 {
		return leg, refuse("there is no pool of use Node for the switch %s: name one, or an address", l.Name)
	}
	for _, name := range names {
		if obj := p.pools[name]; obj != nil && !onSwitch(obj, l.kind) {
			return leg, refuse("pool %s is for the switch %s, not for %s", name, strings.ToLower(string(obj.Spec.Switch)), l.Name)
		}
	}
	for _, is4 := range []bool{true, false} {
		if set := p.legPool(names, is4); len(set.Subnets) > 0 {
			leg.Pools = append(leg.Pools, set)
		}
	}
	return leg, nil
}

// onSwitch tells whether a pool's addresses may be on a switch of that kind: it
// says so, or nothing.
func onSwitch(obj *v1alpha1.IPPool, kind switches.Kind) bool {
	own, err := switches.ParseKind(string(obj.Spec.Switch))
	return obj.Spec.Switch == "" || err == nil && own == kind
}

// fixedLeg takes one address on a switch: of a pool for nodes if it is in one,
// else as it is, where the namespace permits that.
func (p *planner) fixedLeg(l legWish, fixed netip.Prefix) (agentapi.AddressPool, error) {
	a := fixed.Addr()
	if err := p.barred(a, v1alpha1.UseNode); err != nil {
		return agentapi.AddressPool{}, err
	}
	for name, obj := range p.pools {
		network, ok := poolspec.Network(obj, a)
		if !ok {
			continue
		}
		if !onSwitch(obj, l.kind) {
			return agentapi.AddressPool{}, refuse("address %s is of pool %s, which is for the switch %s, not for %s", a, name, strings.ToLower(string(obj.Spec.Switch)), l.Name)
		}
		has := slices.ContainsFunc(p.blocks, func(b block) bool { return b.pool == name && !b.draining && b.prefix.Contains(a) })
		return p.fixed([]netip.Addr{a}, func(netip.Addr) (netip.Prefix, bool) { return network, has }), nil
	}
	if err := p.unfree(a); err != nil {
		return agentapi.AddressPool{}, err
	}
	if fixed.IsSingleIP() {
		return agentapi.AddressPool{}, refuse("address %s is in no pool of use Node: write it with its prefix length", a)
	}
	return agentapi.AddressPool{Name: "fixed", Subnets: []agentapi.Subnet{{Prefix: fixed.Masked(), First: a, Last: a}}}, nil
}

// ofSwitch are the pools for nodes on a switch.
func (p *planner) ofSwitch(kind switches.Kind) []string {
	var names []string
	for name, obj := range p.pools {
		s := obj.Spec
		if k, err := switches.ParseKind(string(s.Switch)); s.Use == v1alpha1.UseNode && err == nil && k == kind && *s.AutoAssign && !s.Disabled {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.pools[b].Spec.Priority, p.pools[a].Spec.Priority), cmp.Compare(a, b))
	})
	return names
}

// legPool takes from pools for nodes, of which the node has single addresses; if
// all of them are held, another is wanted.
func (p *planner) legPool(names []string, is4 bool) agentapi.AddressPool {
	set := agentapi.AddressPool{Name: strings.Join(names, "+")}
	wanted, free := "", false
	for _, name := range names {
		obj := p.pools[name]
		if obj == nil {
			p.wants = append(p.wants, want{pool: name})
			continue
		}
		if wanted == "" && slices.ContainsFunc(poolspec.Firsts(obj), func(a netip.Addr) bool { return a.Is4() == is4 }) {
			wanted = name
		}
		for _, b := range p.blocks {
			if network, ok := poolspec.Network(obj, b.prefix.Addr()); ok && b.pool == name && !b.draining && b.is4() == is4 {
				set.Subnets = append(set.Subnets, agentapi.Subnet{Prefix: network, First: b.prefix.Addr(), Last: b.prefix.Addr()})
				free = free || !p.held[b.prefix.Addr()]
			}
		}
	}
	if wanted != "" && !free {
		p.wants = append(p.wants, want{pool: wanted})
	}
	return set
}
