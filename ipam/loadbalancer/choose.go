// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
)

// minimumRest is how long a freed address rests at least, when no other is left.
const minimumRest = 5 * time.Second

// The reasons for which a Service has no address.
var (
	ErrNoPool    = errors.New("no pool")             // none has such addresses, or none admits it
	ErrExhausted = errors.New("no free address")     // the pools that would do are full
	ErrInUse     = errors.New("address is not free") // the requested one
	ErrSearching = errors.New("searching the network for other machines with")

	// ErrConflict is an ErrInUse by a machine that isn't ours.
	ErrConflict = fmt.Errorf("%w", ErrInUse)

	errNoFamily = fmt.Errorf("%w", ErrNoPool) // that has addresses of the family
)

type choice struct {
	addr  netip.Addr
	pool  string
	early bool // it hasn't rested for the whole cool-down
}

// choose finds an address of a family: the requested one; else the one that the
// Service had last; else one that it can share; else the first never given out;
// else the longest-rested.
func (p *planner) choose(svc *Service, is4 bool, request netip.Addr) (choice, error) {
	if request.IsValid() {
		return p.chooseRequested(svc, request)
	}
	pools, err := p.eligible(svc, is4)
	if err != nil {
		return choice{}, err
	}
	if c, ok := p.chooseKnown(svc, is4, pools); ok {
		return c, nil
	}
	for _, rest := range [...]time.Duration{noRest, fullRest, minimumRest} {
		for _, pool := range pools {
			if c, ok := p.next(pool, is4, rest); ok {
				return c, nil
			}
		}
	}
	return choice{}, fmt.Errorf("%w: %s", ErrExhausted, describe(pools, is4))
}

// The rests that next takes beside a plain duration.
const (
	noRest   time.Duration = -1 // only addresses never given out
	fullRest time.Duration = -2 // the pool's own cool-down
)

// next returns an address of the pool that is free, and if freed, has rested.
func (p *planner) next(pool *Pool, is4 bool, rest time.Duration) (choice, bool) {
	part, _ := pool.part(is4)
	at := cursor{pool.Name, is4}
	look := func(addr netip.Addr) (ipam.Use, error) {
		r := p.records[addr]
		switch {
		case p.taken[addr]:
			return ipam.Use{State: ipam.Held}, nil
		case r == nil:
			return ipam.Use{State: ipam.Free}, nil
		case r.State == Cooling && rest != noRest:
			return ipam.Use{State: ipam.Resting, Rested: p.rested(r)}, nil
		}
		return ipam.Use{State: ipam.Held}, nil
	}
	if rest == fullRest {
		rest = pool.CoolDown
	}
	// No address counts as rested enough by itself, so the longest-rested is given.
	got, err := part.Next(p.cursors[at], ipam.Rest{CoolDown: 1 << 62, Minimum: rest}, look)
	if err != nil {
		return choice{}, false
	}
	if rest == noRest {
		p.cursors[at] = got.Addr
	}
	r := p.records[got.Addr]
	return choice{got.Addr, pool.Name, r != nil && p.rested(r) < pool.CoolDown}, true
}

// chooseKnown returns the address that svc had last, or one that it can share.
func (p *planner) chooseKnown(svc *Service, is4 bool, pools []*Pool) (choice, bool) {
	usable := func(addr netip.Addr) bool {
		return addr.Is4() == is4 && !p.taken[addr] && poolIn(pools, addr) != nil
	}
	var best *Record
	for _, addr := range p.had[svc.Name] {
		r := p.records[addr]
		if usable(addr) && r.State == Cooling && slices.Contains(r.Owners, svc.Name) && (best == nil || later(r, best)) {
			best = r
		}
	}
	if best == nil {
		best = p.shareable(svc, usable)
	}
	if best == nil {
		return choice{}, false
	}
	return choice{addr: best.Addr, pool: poolIn(pools, best.Addr).Name}, true
}

// shareable returns the lowest address that svc can share, or nil.
func (p *planner) shareable(svc *Service, usable func(netip.Addr) bool) *Record {
	var best *Record
	for _, addr := range p.shared[svc.SharingKey] {
		if r := p.records[addr]; usable(addr) && p.mayJoin(r, svc) && (best == nil || addr.Less(best.Addr)) {
			best = r
		}
	}
	return best
}

// later tells whether a came into its state later than b.
func later(a, b *Record) bool {
	return cmp.Or(b.Since.Compare(a.Since), a.Addr.Compare(b.Addr)) < 0
}

func poolIn(pools []*Pool, addr netip.Addr) *Pool {
	for _, pool := range pools {
		if pool.contains(addr) {
			return pool
		}
	}
	return nil
}

// chooseRequested returns the requested address, or why it can't be had.
func (p *planner) chooseRequested(svc *Service, addr netip.Addr) (choice, error) {
	pool := p.poolOf(addr)
	switch {
	case pool == nil:
		return choice{}, fmt.Errorf("%w: none has the requested address %s", ErrNoPool, addr)
	case pool.Disabled:
		return choice{}, fmt.Errorf("%w: pool %s, which has the requested address %s, is disabled", ErrNoPool, pool.Name, addr)
	case pool.Admits != nil && !pool.Admits(svc.Name):
		return choice{}, fmt.Errorf("%w: pool %s, which has the requested address %s, doesn't admit the Service", ErrNoPool, pool.Name, addr)
	case len(svc.Pools) > 0 && !slices.Contains(svc.Pools, pool.Name):
		return choice{}, fmt.Errorf("%w: the requested address %s is in pool %s, which the Service doesn't name", ErrNoPool, addr, pool.Name)
	case p.taken[addr]:
		return choice{}, fmt.Errorf("%w: %s belongs to a node or another machine", ErrInUse, addr)
	}
	r := p.records[addr]
	switch {
	case r == nil || p.mayJoin(r, svc):
		return choice{addr: addr, pool: pool.Name}, nil
	case r.State == Conflicted:
		return choice{}, fmt.Errorf("%w: another machine on the network uses %s%s", ErrConflict, addr, p.by(r))
	case r.State.owned():
		return choice{}, fmt.Errorf("%w: %s is that of %s", ErrInUse, addr, join(r.Owners))
	case slices.Contains(r.Owners, svc.Name):
		return choice{addr: addr, pool: pool.Name}, nil
	case p.rested(r) < minimumRest:
		return choice{}, fmt.Errorf("%w: %s was freed just now by %s", ErrInUse, addr, join(r.Owners))
	}
	return choice{addr, pool.Name, p.rested(r) < pool.CoolDown}, nil
}

// by says who answered for a conflicted address, if that is known.
func (p *planner) by(r *Record) string {
	if p.search == nil {
		return ""
	}
	if finding := p.search(*r); finding.By != "" {
		return " (" + finding.By + ")"
	}
	return ""
}

func join(names []Name) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = n.String()
	}
	return strings.Join(texts, ", ")
}

// eligible returns the pools that may give svc an address of a family, best
// first.
func (p *planner) eligible(svc *Service, is4 bool) ([]*Pool, error) {
	var pools []*Pool
	var refused []string
	none := errNoFamily
	for i := range p.pools {
		pool := &p.pools[i]
		named := slices.Contains(svc.Pools, pool.Name)
		switch _, has := pool.part(is4); {
		case len(svc.Pools) > 0 && !named:
		case !has:
			refused = append(refused, fmt.Sprintf("%s has no %s addresses", pool.Name, familyName(is4)))
		case pool.Disabled:
			none, refused = ErrNoPool, append(refused, pool.Name+" is disabled")
		case !named && !pool.AutoAssign:
			none, refused = ErrNoPool, append(refused, pool.Name+" gives to those who name it only")
		case pool.Admits != nil && !pool.Admits(svc.Name):
			none, refused = ErrNoPool, append(refused, pool.Name+" doesn't admit the Service")
		default:
			pools = append(pools, pool)
		}
	}
	if len(pools) > 0 {
		return pools, nil
	}
	for _, name := range svc.Pools {
		if !slices.ContainsFunc(p.pools, func(pool Pool) bool { return pool.Name == name }) {
			none, refused = ErrNoPool, append(refused, "there is no pool "+name)
		}
	}
	if len(refused) == 0 {
		return nil, fmt.Errorf("%w of use LoadBalancer", ErrNoPool)
	}
	return nil, fmt.Errorf("%w for an %s address: %s", none, familyName(is4), strings.Join(refused, "; "))
}

func familyName(is4 bool) string {
	if is4 {
		return "IPv4"
	}
	return "IPv6"
}

func describe(pools []*Pool, is4 bool) string {
	texts := make([]string, len(pools))
	for i, pool := range pools {
		part, _ := pool.part(is4)
		texts[i] = fmt.Sprintf("pool %s %s", pool.Name, part)
	}
	return strings.Join(texts, "; ")
}

// mayJoin tells whether svc may share a record's address, or has it already:
// the same key, no port in common, and policies that fit.
func (p *planner) mayJoin(r *Record, svc *Service) bool {
	if !r.State.owned() {
		return false
	}
	if slices.Contains(r.Owners, svc.Name) {
		return true
	}
	if svc.SharingKey == "" || svc.SharingKey != r.SharingKey {
		return false
	}
	return !slices.ContainsFunc(r.Owners, func(owner Name) bool {
		other := p.services[owner]
		return other != nil && (other.SharingKey != svc.SharingKey || !fit(other, svc) || slices.ContainsFunc(other.Ports, func(port Port) bool {
			return slices.Contains(svc.Ports, port)
		}))
	})
}

// fit tells whether one node can announce an address for both Services: with
// policy Local it must have endpoints of both, so both must have the same pods.
func fit(a, b *Service) bool {
	return a.Local == b.Local && (!a.Local || a.Backends != "" && a.Backends == b.Backends && a.Name.Namespace == b.Name.Namespace)
}
