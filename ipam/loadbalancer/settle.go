// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// settle gives a Service what it wants, as far as possible, and takes back what
// it no longer wants. It keeps an address until there is another in its place
// that the network has been searched for.
func (p *planner) settle(svc *Service) Assignment {
	before := slices.Clone(p.has[svc.Name])
	chosen, reasons := p.wanted(svc)
	if svc.All && len(reasons) > 0 {
		chosen = slices.DeleteFunc(chosen, func(c choice) bool { return !slices.Contains(before, c.addr) })
	}
	a := Assignment{Service: svc.Name}
	var pending []netip.Addr
	for _, c := range chosen {
		if !slices.Contains(before, c.addr) {
			p.take(c.addr, c.pool, svc, p.first(c.addr))
			if c.early {
				p.early++
			}
		}
		if p.records[c.addr].State != Reserved {
			a.Addrs = append(a.Addrs, c.addr)
			continue
		}
		pending = append(pending, c.addr)
		reasons = append(reasons, fmt.Errorf("%w %s", ErrSearching, c.addr))
		if old := p.meanwhile(svc, c.addr); old.IsValid() {
			a.Addrs = append(a.Addrs, old)
		}
	}
	p.settleRecords(svc, before, slices.Concat(a.Addrs, pending))
	if svc.All && len(pending) > 0 {
		a.Addrs = slices.DeleteFunc(a.Addrs, func(addr netip.Addr) bool { return !slices.Contains(svc.Status, addr) })
	}
	for _, addr := range a.Addrs {
		if p.poolOf(addr) == nil {
			a.Strays = append(a.Strays, addr)
		}
	}
	if len(a.Addrs)+len(pending) > 0 && !svc.All {
		// One family is enough where no pool has the other.
		reasons = slices.DeleteFunc(reasons, func(err error) bool { return errors.Is(err, errNoFamily) })
	}
	a.Reason = errors.Join(reasons...)
	return a
}

// first is the state of an address that gets its first owner.
func (p *planner) first(addr netip.Addr) State {
	if p.search == nil || p.search(Record{Addr: addr, State: Reserved, Since: p.now}).Search == Impossible {
		return Active
	}
	return Reserved
}

// meanwhile returns the address that svc has in place of one that the network
// is searched for.
func (p *planner) meanwhile(svc *Service, pending netip.Addr) netip.Addr {
	held := slices.DeleteFunc(p.held(svc.Name, pending.Is4()), func(addr netip.Addr) bool { return p.records[addr].State != Active })
	for _, addr := range held {
		if slices.Contains(svc.Status, addr) {
			return addr
		}
	}
	if len(held) > 0 {
		return held[0]
	}
	return netip.Addr{}
}

// settleRecords frees what svc had and isn't to have, and enters its key.
func (p *planner) settleRecords(svc *Service, before, stays []netip.Addr) {
	for _, addr := range before {
		r := p.records[addr]
		if !slices.Contains(stays, addr) {
			p.release(r, svc.Name)
		} else if len(r.Owners) == 1 && r.SharingKey != svc.SharingKey {
			r.SharingKey = svc.SharingKey
			p.shared[svc.SharingKey] = append(p.shared[svc.SharingKey], addr)
		}
	}
}

// wanted returns the addresses that svc is to have, and why it lacks others.
func (p *planner) wanted(svc *Service) (chosen []choice, reasons []error) {
	for _, is4 := range [...]bool{true, false} {
		if request := requested(svc, is4); (is4 && !svc.IPv4) || (!is4 && !svc.IPv6) {
			if request.IsValid() {
				reasons = append(reasons, fmt.Errorf("the requested address %s is of a family that the Service doesn't have", request))
			}
			continue
		}
		c, err := p.family(svc, is4)
		if err != nil {
			reasons = append(reasons, err)
		}
		if c.addr.IsValid() {
			chosen = append(chosen, c)
		}
	}
	return chosen, reasons
}

// held returns the addresses of a family that a Service has, sorted.
func (p *planner) held(name Name, is4 bool) []netip.Addr {
	var addrs []netip.Addr
	for _, addr := range p.has[name] {
		if addr.Is4() == is4 {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// family returns the address of one family that svc is to have: the one it has,
// if that is what it wants, else another. If it can't have what it wants, the
// error says why, and the address is the one it has, if any.
func (p *planner) family(svc *Service, is4 bool) (choice, error) {
	request := requested(svc, is4)
	kept := p.keep(svc, is4, request)
	if kept.IsValid() && p.satisfies(kept, svc, request) {
		if r := p.records[kept]; len(r.Owners) > 1 && r.SharingKey != svc.SharingKey {
			return choice{addr: kept}, fmt.Errorf("%s is shared by the key %q, which the Service no longer has", kept, r.SharingKey)
		}
		return choice{addr: kept}, nil
	}
	if svc.Err != nil {
		return choice{addr: kept}, svc.Err
	}
	c, err := p.choose(svc, is4, request)
	if err != nil {
		return choice{addr: kept}, err
	}
	return c, nil
}

func requested(svc *Service, is4 bool) netip.Addr {
	for _, addr := range svc.Requested {
		if addr.Is4() == is4 {
			return addr
		}
	}
	return netip.Addr{}
}

// keep returns which of the addresses that svc has of a family stays: the
// requested one, else one that is as it wants, what its status says first, else
// the lowest.
func (p *planner) keep(svc *Service, is4 bool, request netip.Addr) netip.Addr {
	rank := func(addr netip.Addr) int {
		rank := 0
		if addr != request {
			rank += 4
		}
		if !p.satisfies(addr, svc, request) {
			rank += 2
		}
		if !slices.Contains(svc.Status, addr) {
			rank++
		}
		return rank
	}
	held := p.held(svc.Name, is4)
	if len(held) == 0 {
		return netip.Addr{}
	}
	return slices.MinFunc(held, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b))
	})
}

// satisfies tells whether an address that svc has is what it wants: the one it
// asks for, or one of the pools that it names. Anything else, such as a pool
// that changed, is no reason to move.
func (p *planner) satisfies(addr netip.Addr, svc *Service, request netip.Addr) bool {
	if svc.Err != nil {
		return true
	}
	if request.IsValid() {
		return addr == request
	}
	return len(svc.Pools) == 0 || slices.Contains(svc.Pools, p.records[addr].Pool)
}
