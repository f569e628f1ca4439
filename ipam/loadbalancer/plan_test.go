// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam"
)

func at(seconds int) time.Time { return time.Unix(1_700_000_000+int64(seconds), 0) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func name(s string) Name { return Name{"default", s} }

// pool makes a pool of "first-last" ranges.
func pool(t testing.TB, name string, ranges ...string) Pool {
	t.Helper()
	p := Pool{Name: name, AutoAssign: true, CoolDown: time.Minute}
	for _, r := range ranges {
		first, last, _ := strings.Cut(r, "-")
		sub := ipam.Subnet{Prefix: netip.MustParsePrefix("192.0.2.0/24"), First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
		if sub.First.Is6() {
			sub.Prefix = netip.MustParsePrefix("fd00:c0::/64")
		}
		part, err := ipam.NewPool(name, sub)
		if err != nil {
			t.Fatal(err)
		}
		p.Parts = append(p.Parts, part)
	}
	return p
}

// svc is a Service of IPv4, created by age.
func svc(n string, change ...func(*Service)) Service {
	s := Service{Name: name(n), Created: at(0), IPv4: true, Ports: []Port{{6, 80}}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func asks(addr ...string) func(*Service)   { return func(s *Service) { s.Requested = addrs(addr...) } }
func status(addr ...string) func(*Service) { return func(s *Service) { s.Status = addrs(addr...) } }
func named(pools ...string) func(*Service) { return func(s *Service) { s.Pools = pools } }
func dual(s *Service)                      { s.IPv6 = true }
func all(s *Service)                       { s.IPv6, s.All = true, true }
func shares(key string, port uint16) func(*Service) {
	return func(s *Service) { s.SharingKey, s.Ports = key, []Port{{6, port}} }
}

func local(pods string) func(*Service) {
	return func(s *Service) { s.Local, s.Backends = true, pods }
}

func active(addr string, owners ...string) Record { return record(addr, Active, 0, owners...) }
func record(addr string, state State, since int, owners ...string) Record {
	r := Record{Addr: netip.MustParseAddr(addr), Pool: "a", State: state, Since: at(since)}
	for _, o := range owners {
		r.Owners = append(r.Owners, name(o))
	}
	return r
}
func keyed(key string, r Record) Record { r.SharingKey = key; return r }

// show writes assignments as "web=192.0.2.1" or "web=: reason".
func show(r Result) []string {
	var out []string
	for _, a := range r.Assignments {
		var list []string
		for _, addr := range a.Addrs {
			list = append(list, addr.String())
		}
		text := a.Service.Name + "=" + strings.Join(list, " ")
		if a.Reason != nil {
			text += ": " + a.Reason.Error()
		}
		out = append(out, text)
	}
	return out
}

func TestPlan(t *testing.T) {
	a := pool(t, "a", "192.0.2.1-192.0.2.3", "fd00:c0::1-fd00:c0::3")
	a4 := pool(t, "a", "192.0.2.1-192.0.2.3")
	change := func(p Pool, f func(*Pool)) Pool { f(&p); return p }
	tests := []struct {
		name string
		in   Input
		want []string
	}{
		{"nobody", Input{Pools: []Pool{a}}, nil},
		{"the lowest free one", Input{Pools: []Pool{a}, Services: []Service{svc("web")}}, []string{"web=192.0.2.1"}},
		{"several", Input{Pools: []Pool{a}, Services: []Service{svc("x"), svc("y"), svc("z")}}, []string{"x=192.0.2.1", "y=192.0.2.2", "z=192.0.2.3"}},
		{"the oldest first", Input{Pools: []Pool{a}, Services: []Service{svc("x", func(s *Service) { s.Created = at(5) }), svc("y")}},
			[]string{"x=192.0.2.2", "y=192.0.2.1"}},
		{"requests before the rest", Input{Pools: []Pool{a}, Services: []Service{svc("x"), svc("y", asks("192.0.2.1"))}},
			[]string{"x=192.0.2.2", "y=192.0.2.1"}},
		{"addresses of others are passed over", Input{Pools: []Pool{a}, Services: []Service{svc("x")}, Taken: addrs("192.0.2.1")}, []string{"x=192.0.2.2"}},
		{"a conflicted one is passed over", Input{Pools: []Pool{a}, Services: []Service{svc("x")}, Records: []Record{record("192.0.2.1", Conflicted, 0)}},
			[]string{"x=192.0.2.2"}},
		{"who has a conflicted one moves", Input{Pools: []Pool{a}, Services: []Service{svc("x", status("192.0.2.1"))},
			Records: []Record{record("192.0.2.1", Conflicted, 0, "x")}}, []string{"x=192.0.2.2"}},

		{"what it has, it keeps", Input{Pools: []Pool{a}, Services: []Service{svc("a"), svc("x")}, Records: []Record{active("192.0.2.1", "x")}},
			[]string{"a=192.0.2.2", "x=192.0.2.1"}},
		{"also outside of all pools", Input{Services: []Service{svc("x")}, Records: []Record{active("192.0.2.77", "x")}}, []string{"x=192.0.2.77"}},
		{"also of a disabled pool", Input{Pools: []Pool{change(a, func(p *Pool) { p.Disabled = true })}, Services: []Service{svc("x"), svc("y")},
			Records: []Record{active("192.0.2.2", "x")}}, []string{"x=192.0.2.2", "y=: no pool for an IPv4 address: a is disabled"}},
		{"of two it keeps the one in its status", Input{Pools: []Pool{a}, Services: []Service{svc("x", status("192.0.2.2"))},
			Records: []Record{active("192.0.2.1", "x"), active("192.0.2.2", "x")}}, []string{"x=192.0.2.2"}},
		{"while its wishes can't be read", Input{Pools: []Pool{a}, Services: []Service{
			svc("x", func(s *Service) { s.Err = errors.New("annotation is bad") }),
			svc("y", func(s *Service) { s.Err = errors.New("annotation is bad") }),
		}, Records: []Record{active("192.0.2.2", "x")}}, []string{"x=192.0.2.2", "y=: annotation is bad"}},

		{"requested", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}}, []string{"x=192.0.2.3"}},
		{"requested another", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}, Records: []Record{active("192.0.2.1", "x")}},
			[]string{"x=192.0.2.3"}},
		{"requested, in use: keeps its own", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3")), svc("y")},
			Records: []Record{active("192.0.2.1", "x"), active("192.0.2.3", "y")}},
			[]string{"x=192.0.2.1: address is not free: 192.0.2.3 is that of default/y", "y=192.0.2.3"}},
		{"requested, a node's", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}, Taken: addrs("192.0.2.3")},
			[]string{"x=: address is not free: 192.0.2.3 belongs to a node or another machine"}},
		{"requested, conflicted", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}, Records: []Record{record("192.0.2.3", Conflicted, 0)}},
			[]string{"x=: address is not free: another machine on the network uses 192.0.2.3"}},
		{"requested, in no pool", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.9"))}},
			[]string{"x=: no pool: none has the requested address 192.0.2.9"}},
		{"requested, freed just now", Input{Now: at(3), Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}, Records: []Record{record("192.0.2.3", Cooling, 0, "y")}},
			[]string{"x=: address is not free: 192.0.2.3 was freed just now by default/y"}},
		{"requested, rested a little", Input{Now: at(6), Pools: []Pool{a}, Services: []Service{svc("x", asks("192.0.2.3"))}, Records: []Record{record("192.0.2.3", Cooling, 0, "y")}},
			[]string{"x=192.0.2.3"}},
		{"requested from a pool for those who name it", Input{Pools: []Pool{change(a, func(p *Pool) { p.AutoAssign = false })}, Services: []Service{svc("x", asks("192.0.2.3")), svc("y")}},
			[]string{"x=192.0.2.3", "y=: no pool for an IPv4 address: a gives to those who name it only"}},
		{"requested of the other family", Input{Pools: []Pool{a}, Services: []Service{svc("x", asks("fd00:c0::2"))}},
			[]string{"x=192.0.2.1: the requested address fd00:c0::2 is of a family that the Service doesn't have"}},

		{"no pool at all", Input{Services: []Service{svc("x")}}, []string{"x=: no pool of use LoadBalancer"}},
		{"a pool that isn't there", Input{Pools: []Pool{a}, Services: []Service{svc("x", named("b"))}}, []string{"x=: no pool for an IPv4 address: there is no pool b"}},
		{"a pool by name", Input{Pools: []Pool{a, change(pool(t, "b", "192.0.2.7-192.0.2.8"), func(p *Pool) { p.AutoAssign = false })},
			Services: []Service{svc("x", named("b"))}}, []string{"x=192.0.2.7"}},
		{"moves to the pool it names", Input{Pools: []Pool{a, pool(t, "b", "192.0.2.7-192.0.2.8")},
			Services: []Service{svc("x", named("b"))}, Records: []Record{active("192.0.2.1", "x")}}, []string{"x=192.0.2.7"}},
		{"the highest priority first", Input{Pools: []Pool{a, change(pool(t, "b", "192.0.2.7-192.0.2.7"), func(p *Pool) { p.Priority = 1 })},
			Services: []Service{svc("x"), svc("y")}}, []string{"x=192.0.2.7", "y=192.0.2.1"}},
		{"a pool that doesn't admit it", Input{Pools: []Pool{change(a, func(p *Pool) { p.Admits = func(n Name) bool { return n.Name == "y" } })},
			Services: []Service{svc("x"), svc("y")}}, []string{"x=: no pool for an IPv4 address: a doesn't admit the Service", "y=192.0.2.1"}},
		{"exhausted", Input{Pools: []Pool{a4}, Services: []Service{svc("a"), svc("b"), svc("c"), svc("d")}},
			[]string{"a=192.0.2.1", "b=192.0.2.2", "c=192.0.2.3", "d=: no free address: pool a [192.0.2.1-192.0.2.3]"}},

		{"dual stack", Input{Pools: []Pool{a}, Services: []Service{svc("x", dual)}}, []string{"x=192.0.2.1 fd00:c0::1"}},
		{"dual stack where one family has no pool", Input{Pools: []Pool{a4}, Services: []Service{svc("x", dual)}}, []string{"x=192.0.2.1"}},
		{"dual stack required: all or none", Input{Pools: []Pool{a4}, Services: []Service{svc("x", all)}},
			[]string{"x=: no pool for an IPv6 address: a has no IPv6 addresses"}},
		{"dual stack required later: keeps the one it has", Input{Pools: []Pool{a4}, Services: []Service{svc("x", all)}, Records: []Record{active("192.0.2.2", "x")}},
			[]string{"x=192.0.2.2: no pool for an IPv6 address: a has no IPv6 addresses"}},
		{"a family added", Input{Pools: []Pool{a}, Services: []Service{svc("x", all)}, Records: []Record{active("192.0.2.2", "x")}}, []string{"x=192.0.2.2 fd00:c0::1"}},
		{"a family less", Input{Pools: []Pool{a}, Services: []Service{svc("x")}, Records: []Record{active("192.0.2.2", "x"), active("fd00:c0::2", "x")}}, []string{"x=192.0.2.2"}},

		{"made again by the same name", Input{Now: at(1), Pools: []Pool{a}, Services: []Service{svc("x")}, Records: []Record{record("192.0.2.3", Cooling, 0, "x")}},
			[]string{"x=192.0.2.3"}},
		{"by another name: not what rests", Input{Now: at(1000), Pools: []Pool{a}, Services: []Service{svc("y")}, Records: []Record{record("192.0.2.1", Cooling, 0, "x")}},
			[]string{"y=192.0.2.2"}},
		{"when all others are taken: the longest-rested", Input{Now: at(1000), Pools: []Pool{a4}, Services: []Service{svc("y"), svc("z")},
			Records: []Record{active("192.0.2.1", "z"), record("192.0.2.2", Cooling, 500, "x"), record("192.0.2.3", Cooling, 400, "x")}},
			[]string{"y=192.0.2.3", "z=192.0.2.1"}},
		{"rather what rested than what didn't, of whatever pool", Input{Now: at(1000),
			Pools: []Pool{change(pool(t, "b", "192.0.2.7-192.0.2.7"), func(p *Pool) { p.Priority = 1 }), pool(t, "a", "192.0.2.1-192.0.2.1")}, Services: []Service{svc("y")},
			Records: []Record{record("192.0.2.7", Cooling, 990, "x"), record("192.0.2.1", Cooling, 400, "x")}}, []string{"y=192.0.2.1"}},
		{"when only resting ones are left", Input{Now: at(10), Pools: []Pool{pool(t, "a", "192.0.2.1-192.0.2.2")}, Services: []Service{svc("y"), svc("z")},
			Records: []Record{record("192.0.2.1", Cooling, 9, "x"), record("192.0.2.2", Cooling, 4, "x")}},
			[]string{"y=192.0.2.2", "z=: no free address: pool a [192.0.2.1-192.0.2.2]"}},

		{"a status without a record is taken over", Input{Pools: []Pool{a}, Services: []Service{svc("a"), svc("x", status("192.0.2.1"))}}, []string{"a=192.0.2.2", "x=192.0.2.1"}},
		{"but not one outside of the pools", Input{Pools: []Pool{a}, Services: []Service{svc("x", status("192.0.2.77"))}}, []string{"x=192.0.2.1"}},
		{"nor beside a record", Input{Pools: []Pool{a}, Services: []Service{svc("x", status("192.0.2.2"))}, Records: []Record{active("192.0.2.1", "x")}}, []string{"x=192.0.2.1"}},
		{"nor another's", Input{Pools: []Pool{a}, Services: []Service{svc("a", status("192.0.2.1")), svc("x", status("192.0.2.1"))}, Records: []Record{active("192.0.2.1", "x")}},
			[]string{"a=192.0.2.2", "x=192.0.2.1"}},
		{"two with one status: the first", Input{Pools: []Pool{a}, Services: []Service{svc("a", status("192.0.2.1")), svc("x", status("192.0.2.1"))}}, []string{"a=192.0.2.1", "x=192.0.2.2"}},

		{"shared by key", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80)), svc("y", shares("k", 81)), svc("z", shares("other", 82))}},
			[]string{"x=192.0.2.1", "y=192.0.2.1", "z=192.0.2.2"}},
		{"not with a port in common", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80)), svc("y", shares("k", 80))}}, []string{"x=192.0.2.1", "y=192.0.2.2"}},
		{"not with another policy", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80)), svc("y", shares("k", 81), local("app=web"))}},
			[]string{"x=192.0.2.1", "y=192.0.2.2"}},
		{"both Local, of the same pods", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80), local("app=web")), svc("y", shares("k", 81), local("app=web"))}},
			[]string{"x=192.0.2.1", "y=192.0.2.1"}},
		{"both Local, of other pods", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80), local("app=web")), svc("y", shares("k", 81), local("app=db"))}},
			[]string{"x=192.0.2.1", "y=192.0.2.2"}},
		{"both Local, of another namespace's pods", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80), local("app=web")), svc("y", shares("k", 81), local("app=web"), func(s *Service) { s.Name.Namespace = "other" })}},
			[]string{"x=192.0.2.1", "y=192.0.2.2"}},
		{"both Local, of pods that nobody knows", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80), local("")), svc("y", shares("k", 81), local(""))}},
			[]string{"x=192.0.2.1", "y=192.0.2.2"}},
		{"one port, two protocols", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 53)), svc("y", shares("k", 53), func(s *Service) { s.Ports[0].Protocol = 17 })}},
			[]string{"x=192.0.2.1", "y=192.0.2.1"}},
		{"requested and shared", Input{Pools: []Pool{a}, Services: []Service{svc("x", shares("k", 80), asks("192.0.2.3")), svc("y", shares("k", 81), asks("192.0.2.3"))}},
			[]string{"x=192.0.2.3", "y=192.0.2.3"}},
		{"the key is gone from one", Input{Pools: []Pool{a}, Services: []Service{svc("x"), svc("y", shares("k", 81))}, Records: []Record{keyed("k", active("192.0.2.1", "x", "y"))}},
			[]string{`x=192.0.2.1: 192.0.2.1 is shared by the key "k", which the Service no longer has`, "y=192.0.2.1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.Now.IsZero() {
				tt.in.Now = at(100)
			}
			result := Plan(tt.in)
			if diff := cmp.Diff(tt.want, show(result)); diff != "" {
				t.Errorf("assignments (-want +got):\n%s", diff)
			}
			checkOnce(t, tt.in, result)
		})
	}
}

// apply returns the records after all of the result was written.
func apply(records []Record, r Result) []Record {
	by := map[netip.Addr]Record{}
	for _, list := range [][]Record{records, r.Put, r.Release} {
		for _, rec := range list {
			by[rec.Addr] = rec
		}
	}
	for _, addr := range r.Forget {
		delete(by, addr)
	}
	var out []Record
	for _, rec := range by {
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b Record) int { return a.Addr.Compare(b.Addr) })
	return out
}

// checkOnce requires that no address has two owners unless by key, that
// assignments and records agree, and that planning again changes nothing.
func checkOnce(t *testing.T, in Input, r Result) {
	t.Helper()
	has := map[Name][]netip.Addr{}
	in.Records = apply(in.Records, r)
	for _, rec := range in.Records {
		if rec.State != Active {
			continue
		}
		if len(rec.Owners) == 0 || (len(rec.Owners) > 1 && rec.SharingKey == "") {
			t.Errorf("%s: want one owner, or several with a key, got %v, key %q", rec.Addr, rec.Owners, rec.SharingKey)
		}
		for _, owner := range rec.Owners {
			has[owner] = append(has[owner], rec.Addr)
		}
	}
	for _, a := range r.Assignments {
		if !slices.Equal(a.Addrs, has[a.Service]) {
			t.Errorf("%s: want assignment and records to agree, got %v and %v", a.Service, a.Addrs, has[a.Service])
		}
		delete(has, a.Service)
	}
	if len(has) > 0 {
		t.Errorf("want no records of Services that aren't there, got %v", has)
	}
	for i, s := range in.Services {
		for _, a := range r.Assignments {
			if a.Service == s.Name {
				in.Services[i].Status = a.Addrs
			}
		}
	}
	if again := Plan(in); len(again.Put)+len(again.Release)+len(again.Forget) > 0 {
		t.Errorf("want nothing more to do, got put %v release %v forget %v", again.Put, again.Release, again.Forget)
	}
}

// What a status is about to name must be durable before, what it still names
// freed after.
func TestPlanOrderOfWrites(t *testing.T) {
	in := Input{
		Now: at(100), Pools: []Pool{pool(t, "a", "192.0.2.1-192.0.2.9")},
		Services: []Service{svc("x", asks("192.0.2.5"), status("192.0.2.1")), svc("y", shares("k", 81)), svc("z")},
		Records:  []Record{active("192.0.2.1", "x"), keyed("k", active("192.0.2.2", "w", "y")), active("192.0.2.3", "gone"), active("192.0.2.4", "z")},
	}
	r := Plan(in)
	freed := func(rec Record) Record { rec.State, rec.Since = Cooling, at(100); return rec }
	moved := active("192.0.2.5", "x")
	moved.Since = at(100)
	want := Result{
		Put:     []Record{moved},
		Release: []Record{freed(active("192.0.2.1", "x")), keyed("k", active("192.0.2.2", "y")), freed(active("192.0.2.3", "gone"))},
		Usage:   []Usage{{Pool: "a", Total: 9, Used: 5, Owners: []Name{name("x"), name("y"), name("z")}}},
	}
	r.Assignments = nil
	equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, r, equal); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestPlanRemembersNoMoreThanNeeded(t *testing.T) {
	in := Input{Now: at(10_000), Pools: []Pool{pool(t, "a", "fd00:c0::1-fd00:c0::ffff")}}
	for i := range remembered + 10 {
		in.Records = append(in.Records, record(fmt.Sprintf("fd00:c0::%x", i+1), Cooling, i, fmt.Sprint("s", i)))
	}
	if r := Plan(in); len(r.Forget) != 10 || r.Forget[0] != netip.MustParseAddr("fd00:c0::1") {
		t.Errorf("want the 10 longest-rested forgotten, got %v", r.Forget)
	}
	in.Now = at(0)
	if r := Plan(in); len(r.Forget) != 0 {
		t.Errorf("want none forgotten that still rests, got %v", r.Forget)
	}
}

func TestPlanCountsEarly(t *testing.T) {
	in := Input{
		Now: at(10), Pools: []Pool{pool(t, "a", "192.0.2.1-192.0.2.1")}, Services: []Service{svc("y")},
		Records: []Record{record("192.0.2.1", Cooling, 0, "x")},
	}
	if r := Plan(in); r.Early != 1 {
		t.Errorf("want one given early, got %d", r.Early)
	}
}
