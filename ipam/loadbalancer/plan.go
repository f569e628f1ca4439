// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

// remembered is how many freed addresses keep the memory of their last owner.
const remembered = 1000

// Plan decides. Equal inputs, in any order, give equal results.
func Plan(in Input) Result {
	p := newPlanner(in)
	p.adopt()
	p.releaseStrangers()
	result := Result{}
	for _, svc := range p.order() {
		result.Assignments = append(result.Assignments, p.settle(svc))
	}
	slices.SortFunc(result.Assignments, func(a, b Assignment) int { return a.Service.compare(b.Service) })
	p.changes(&result)
	result.Forget = p.forget()
	result.Usage = p.usage()
	result.Conflicts, result.Early = p.conflicts, p.early
	return result
}

// planner is the state of one Plan: the records as they will be.
type planner struct {
	now      time.Time
	pools    []Pool // best first
	services map[Name]*Service
	records  map[netip.Addr]*Record
	before   map[netip.Addr]Record
	has      map[Name][]netip.Addr   // what each owner has
	had      map[Name][]netip.Addr   // what each owner had last
	shared   map[string][]netip.Addr // by key, what may be shared
	cursors  map[cursor]netip.Addr   // all before it has been given out once
	taken    map[netip.Addr]bool
	search   func(Record) Finding
	measure  func(Record) time.Duration

	conflicts []Conflict
	early     int
}

type cursor struct {
	pool string
	is4  bool
}

func newPlanner(in Input) *planner {
	p := &planner{
		now:      in.Now,
		pools:    slices.Clone(in.Pools),
		services: map[Name]*Service{},
		records:  map[netip.Addr]*Record{},
		before:   map[netip.Addr]Record{},
		has:      map[Name][]netip.Addr{},
		had:      map[Name][]netip.Addr{},
		shared:   map[string][]netip.Addr{},
		cursors:  map[cursor]netip.Addr{},
		taken:    map[netip.Addr]bool{},
		search:   in.Search,
		measure:  in.Rested,
	}
	slices.SortFunc(p.pools, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	for i := range in.Services {
		p.services[in.Services[i].Name] = &in.Services[i]
	}
	for _, r := range in.Records {
		p.before[r.Addr] = r
		own := r
		own.Owners = slices.SortedFunc(slices.Values(r.Owners), Name.compare)
		if p.found(&own) {
			p.records[r.Addr] = &own
			p.index(&own)
		}
	}
	slices.SortFunc(p.conflicts, func(a, b Conflict) int { return a.Addr.Compare(b.Addr) })
	for _, addr := range in.Taken {
		p.taken[addr] = true
	}
	return p
}

// found enters what the search found, and returns whether there is still
// something to remember of the address.
func (p *planner) found(r *Record) bool {
	if r.State != Reserved && r.State != Conflicted {
		return true
	}
	finding := Finding{Search: Impossible}
	if p.search != nil {
		finding = p.search(*r)
	} else if r.State == Conflicted {
		finding.Search = Occupied
	}
	switch {
	case r.State == Conflicted:
		return finding.Search != Free
	case finding.Search == Occupied:
		// Since stays: it says which search it was that found the conflict.
		p.conflicts = append(p.conflicts, Conflict{r.Addr, r.Pool, r.Owners, finding.By})
		r.State, r.Owners, r.SharingKey = Conflicted, nil, ""
	case finding.Search != Searching:
		r.State, r.Since = Active, p.now
	}
	return true
}

// index notes who has, or had, an address.
func (p *planner) index(r *Record) {
	if r.State == Conflicted {
		return
	}
	by := p.has
	if r.State == Cooling {
		by = p.had
	} else if r.SharingKey != "" {
		p.shared[r.SharingKey] = append(p.shared[r.SharingKey], r.Addr)
	}
	for _, owner := range r.Owners {
		by[owner] = append(by[owner], r.Addr)
	}
}

// order returns the Services in the order in which they are given addresses:
// first those that ask for particular ones, then the oldest.
func (p *planner) order() []*Service {
	asks := func(s *Service) int {
		if len(s.Requested) > 0 {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Values(p.services), func(a, b *Service) int {
		return cmp.Or(cmp.Compare(asks(a), asks(b)), a.Created.Compare(b.Created), a.Name.compare(b.Name))
	})
}

// adopt makes records of addresses that stand in a status without one, if a
// pool has them: they were given out before the records began. The oldest
// Service has it where several claim one.
func (p *planner) adopt() {
	byAge := slices.SortedFunc(maps.Values(p.services), func(a, b *Service) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Name.compare(b.Name))
	})
	for _, svc := range byAge {
		for _, addr := range svc.Status {
			pool := p.poolOf(addr)
			if pool == nil || p.taken[addr] || len(p.held(svc.Name, addr.Is4())) > 0 {
				continue
			}
			if r := p.records[addr]; r == nil || p.mayJoin(r, svc) {
				p.take(addr, pool.Name, svc, Active)
			}
		}
	}
}

func (p *planner) poolOf(addr netip.Addr) *Pool {
	for i := range p.pools {
		if p.pools[i].contains(addr) {
			return &p.pools[i]
		}
	}
	return nil
}

// releaseStrangers frees what Services have that are no longer there.
func (p *planner) releaseStrangers() {
	for _, r := range p.records {
		if !r.State.owned() {
			continue
		}
		for _, owner := range slices.Clone(r.Owners) {
			if p.services[owner] == nil {
				p.release(r, owner)
			}
		}
	}
}

// release takes an owner from a record. The last one is remembered.
func (p *planner) release(r *Record, owner Name) {
	p.has[owner] = slices.DeleteFunc(p.has[owner], func(a netip.Addr) bool { return a == r.Addr })
	if len(r.Owners) > 1 {
		r.Owners = slices.DeleteFunc(slices.Clone(r.Owners), func(n Name) bool { return n == owner })
		return
	}
	r.State, r.Since = Cooling, p.now
	p.had[owner] = append(p.had[owner], r.Addr)
}

// take makes svc an owner of the address, which is in that state if it had no
// owner before.
func (p *planner) take(addr netip.Addr, pool string, svc *Service, state State) {
	r := p.records[addr]
	if r != nil && r.State.owned() {
		if !slices.Contains(r.Owners, svc.Name) {
			r.Owners = append(slices.Clone(r.Owners), svc.Name)
			slices.SortFunc(r.Owners, Name.compare)
			p.has[svc.Name] = append(p.has[svc.Name], addr)
		}
		return
	}
	r = &Record{Addr: addr, Pool: pool, Owners: []Name{svc.Name}, SharingKey: svc.SharingKey, State: state, Since: p.now}
	p.records[addr] = r
	p.index(r)
}

// changes fills in what must be written: before the statuses what owners gain,
// after them what they lose.
func (p *planner) changes(result *Result) {
	for _, addr := range slices.SortedFunc(maps.Keys(p.records), netip.Addr.Compare) {
		r, old := *p.records[addr], p.before[addr]
		switch {
		case same(r, old):
		case r.State.owned() && (r.State != old.State || gains(r, old) || r.SharingKey != old.SharingKey):
			result.Put = append(result.Put, r)
		default:
			result.Release = append(result.Release, r)
		}
	}
}

func same(a, b Record) bool {
	return a.Addr == b.Addr && a.Pool == b.Pool && a.State == b.State && a.SharingKey == b.SharingKey && slices.Equal(a.Owners, b.Owners)
}

// gains tells whether r has an owner that old hadn't.
func gains(r, old Record) bool {
	return slices.ContainsFunc(r.Owners, func(n Name) bool { return !slices.Contains(old.Owners, n) })
}

// forget returns the addresses that need no memory: conflicts that are over,
// and of the freed ones the longest-rested beyond what is remembered.
func (p *planner) forget() []netip.Addr {
	var addrs []netip.Addr
	for addr := range p.before {
		if p.records[addr] == nil {
			addrs = append(addrs, addr)
		}
	}
	addrs = append(addrs, p.forgetCooling()...)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func (p *planner) forgetCooling() []netip.Addr {
	var cooling []*Record
	for _, r := range p.records {
		if r.State == Cooling {
			cooling = append(cooling, r)
		}
	}
	if len(cooling) <= remembered {
		return nil
	}
	slices.SortFunc(cooling, func(a, b *Record) int {
		return cmp.Or(b.Since.Compare(a.Since), a.Addr.Compare(b.Addr))
	})
	var addrs []netip.Addr
	for _, r := range cooling[remembered:] {
		if p.rested(r) >= p.coolDown(r.Pool) {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

func (p *planner) coolDown(pool string) time.Duration {
	for i := range p.pools {
		if p.pools[i].Name == pool {
			return p.pools[i].CoolDown
		}
	}
	return 0
}

// rested returns for how long an address has been free. A clock that was set
// back doesn't count against it.
func (p *planner) rested(r *Record) time.Duration {
	if p.measure == nil {
		return max(0, p.now.Sub(r.Since))
	}
	if p.before[r.Addr].State != Cooling {
		return 0 // freed just now
	}
	return p.measure(*r)
}

func (p *planner) usage() []Usage {
	list := make([]Usage, 0, len(p.pools))
	for i := range p.pools {
		pool := &p.pools[i]
		u := Usage{Pool: pool.Name}
		for _, part := range pool.Parts {
			if size := part.Size(); u.Total > math.MaxUint64-size {
				u.Total = math.MaxUint64
			} else {
				u.Total += size
			}
		}
		for addr, r := range p.records {
			has := pool.contains(addr)
			if r.State.owned() && (has || r.Pool == pool.Name) {
				u.Owners = append(u.Owners, r.Owners...)
			}
			switch {
			case !has && r.State.owned() && r.Pool == pool.Name:
				u.Strays++
			case !has:
			case r.State == Conflicted:
				u.Conflicted++
				u.Used++
			default:
				u.Used++
			}
		}
		slices.SortFunc(u.Owners, Name.compare)
		u.Owners = slices.Compact(u.Owners)
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Usage) int { return cmp.Compare(a.Pool, b.Pool) })
	return list
}
