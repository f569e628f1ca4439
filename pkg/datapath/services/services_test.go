// SPDX-License-Identifier: Apache-2.0

package services

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// lab is a set of maps, and the clock of whoever owns them.
type lab struct {
	maps Maps
	now  time.Time
}

func newLab(t testing.TB) *lab {
	t.Helper()
	netlab.Require(t)
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]*ebpf.Map{}
	for _, name := range []string{"frontends", "services", "slots", "backends", "source_ranges", "flows", "flows_new"} {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			t.Fatalf("make map %s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		named[name] = m
	}
	return &lab{
		maps: Maps{
			Frontends: named["frontends"], Services: named["services"], Slots: named["slots"],
			Backends: named["backends"], SourceRanges: named["source_ranges"],
			Flows: named["flows"], FlowsNew: named["flows_new"],
		},
		now: time.Unix(1000, 0),
	}
}

func (l *lab) open(t testing.TB) *Services {
	t.Helper()
	s, err := Open(l.maps, func() time.Time { return l.now })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func set(t testing.TB, s *Services, entries ...service.Entry) {
	t.Helper()
	if err := s.Set(entries); err != nil {
		t.Fatal(err)
	}
}

func backends(addrs ...string) []service.Backend {
	var all []service.Backend
	for _, a := range addrs {
		all = append(all, service.Backend{Addr: netip.MustParseAddrPort(a), Node: "n"})
	}
	return all
}

func entry(frontend string, b ...service.Backend) service.Entry {
	addr := netip.MustParseAddrPort(frontend)
	return service.Entry{
		Frontend: service.Frontend{Address: service.Address{IP: addr.Addr(), Port: addr.Port(), Protocol: service.TCP}},
		Port:     service.PortName{Namespace: "default", Name: addr.Addr().String()},
		Backends: b, SocketLB: len(b) > 0,
	}
}

// chosen is what a program would find: the backends in the slots of a frontend.
func (l *lab) chosen(t testing.TB, frontend string) []string {
	t.Helper()
	e := entry(frontend)
	var fe objects.MapFrontend
	if err := l.maps.Frontends.Lookup(frontendKey(e.Frontend), &fe); err != nil {
		t.Fatalf("frontend %s: %v", frontend, err)
	}
	var word uint64
	if err := l.maps.Services.Lookup(fe.Service, &word); err != nil {
		t.Fatal(err)
	}
	var found []string
	for i := range uint32(uint16(word >> 32)) {
		var id uint32
		var b objects.MapBackend
		if err := l.maps.Slots.Lookup(uint32(word)+i, &id); err != nil {
			t.Fatal(err)
		}
		if err := l.maps.Backends.Lookup(id, &b); err != nil {
			t.Fatal(err)
		}
		if b.Service != fe.Service || b.Flags&uint8(objects.MapBackendFlagsBACKEND_GONE) != 0 {
			t.Errorf("backend %d of %s: service %d flags %d, want service %d and not gone", id, frontend, b.Service, b.Flags, fe.Service)
		}
		found = append(found, addrPort(b).String())
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (l *lab) want(t testing.TB, frontend string, backends ...string) {
	t.Helper()
	if diff := cmp.Diff(backends, l.chosen(t, frontend)); diff != "" {
		t.Errorf("backends of %s (-want +got):\n%s", frontend, diff)
	}
}

func TestSetGolden(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	set(t, s, entry("10.96.0.1:443", backends("10.0.0.5:6443", "10.0.0.6:6443")...))

	var fe objects.MapFrontend
	key := objects.MapFrontendKey{
		Addr: objects.MapAddr{B: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 96, 15: 1}}, Port: 443>>8 | 443&0xff<<8, Proto: 6,
	}
	if err := l.maps.Frontends.Lookup(key, &fe); err != nil {
		t.Fatal(err)
	}
	want := objects.MapFrontend{Service: 1, Flags: uint16(objects.MapFrontendFlagsFE_SOCKET | objects.MapFrontendFlagsFE_REJECT)}
	if fe != want {
		t.Errorf("frontend: want %+v, got %+v", want, fe)
	}
	var word uint64
	if err := l.maps.Services.Lookup(uint32(1), &word); err != nil {
		t.Fatal(err)
	}
	if word != 1<<48|2<<32|1 {
		t.Errorf("word: want generation 1, count 2, base 1, got %#x", word)
	}
	var b objects.MapBackend
	if err := l.maps.Backends.Lookup(uint32(2), &b); err != nil {
		t.Fatal(err)
	}
	wantBackend := objects.MapBackend{
		Addr: objects.MapAddr{B: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 6}}, Port: 6443>>8 | 6443&0xff<<8, Proto: 6, Service: 1,
	}
	if b != wantBackend {
		t.Errorf("backend: want %+v, got %+v", wantBackend, b)
	}
	key.Port, key.Proto = 0, 0
	if err := l.maps.Frontends.Lookup(key, &fe); err != nil || fe.Flags != uint16(objects.MapFrontendFlagsFE_ADDRESS) {
		t.Errorf("address alone: want flag FE_ADDRESS, got %+v, %v", fe, err)
	}
}

func TestSetChanges(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	a, b := "10.96.0.1:80", "[fd00::1]:80"
	set(t, s, entry(a, backends("10.0.0.1:1", "10.0.0.2:1")...), entry(b, backends("[fd01::1]:1")...))
	l.want(t, a, "10.0.0.1:1", "10.0.0.2:1")
	l.want(t, b, "[fd01::1]:1")
	before := s.frontends[frontendKey(entry(a).Frontend)]

	set(t, s, entry(a, backends("10.0.0.2:1", "10.0.0.3:1")...), entry(b, backends("[fd01::1]:1")...))
	l.want(t, a, "10.0.0.2:1", "10.0.0.3:1")
	if after := s.frontends[frontendKey(entry(a).Frontend)]; after != before {
		t.Errorf("frontend: want unchanged %+v, got %+v", before, after)
	}
	if got := s.generation(before.Service); got != 2 {
		t.Errorf("generation: want 2, got %d", got)
	}
	set(t, s, entry(a))
	l.want(t, a)
	if _, ok := s.frontends[frontendKey(entry(b).Frontend)]; ok {
		t.Error("frontend of a Service that is gone: want none")
	}
	set(t, s)
	l.now = l.now.Add(2 * grace)
	s.Rest()
	for name, r := range map[string]*indexes.Set{"words": s.wordIDs, "slots": s.slotIDs, "backends": s.backendIDs, "sources": s.sourceIDs} {
		if r.Used() != 0 {
			t.Errorf("%s: want none used after all Services are gone, got %d", name, r.Used())
		}
	}
}

func TestFreedRests(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	fe := "10.96.0.1:80"
	set(t, s, entry(fe, backends("10.0.0.1:1")...))
	set(t, s, entry(fe, backends("10.0.0.2:1")...))
	var b objects.MapBackend
	if err := l.maps.Backends.Lookup(uint32(1), &b); err != nil {
		t.Fatal(err)
	}
	if b.Port == 0 || b.Flags&uint8(objects.MapBackendFlagsBACKEND_GONE) == 0 {
		t.Errorf("backend just replaced: want readable and marked gone, got %+v", b)
	}
	if s.backendIDs.Used() != 2 || s.slotIDs.Used() != 2 {
		t.Errorf("want the old backend and slot at rest, got %d, %d in use", s.backendIDs.Used(), s.slotIDs.Used())
	}
}

func TestReopen(t *testing.T) {
	l := newLab(t)
	consistent := entry("192.0.2.1:80", backends("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")...)
	consistent.Consistent = true
	consistent.Frontend.Scope = service.External
	consistent.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.7/32")}
	one := entry("192.0.2.2:80", backends("10.0.0.1:1")...)
	one.Consistent = true
	entries := []service.Entry{
		entry("10.96.0.1:80", backends("10.0.0.1:1", "10.0.0.2:1")...), entry("10.96.0.2:80"), consistent, one,
	}
	first := l.open(t)
	set(t, first, entries...)
	words := slices.Clone(first.words)
	fes := first.frontends

	second := l.open(t)
	set(t, second, entries...)
	if !slices.Equal(words, second.words) {
		t.Error("words: want none switched by a restart")
	}
	if diff := cmp.Diff(fes, second.frontends); diff != "" {
		t.Errorf("frontends after a restart (-want +got):\n%s", diff)
	}
	for _, r := range []struct {
		name string
		a, b *indexes.Set
	}{
		{"words", first.wordIDs, second.wordIDs}, {"slots", first.slotIDs, second.slotIDs},
		{"backends", first.backendIDs, second.backendIDs}, {"sources", first.sourceIDs, second.sourceIDs},
	} {
		if r.a.Used() != r.b.Used() {
			t.Errorf("%s: want %d in use after a restart, got %d", r.name, r.a.Used(), r.b.Used())
		}
	}
	// A change after the restart: what is gone goes, what stays keeps its index.
	entries[0].Backends = backends("10.0.0.2:1", "10.0.0.9:1")
	set(t, second, entries...)
	l.want(t, "10.96.0.1:80", "10.0.0.2:1", "10.0.0.9:1")
}

func TestReopenAfterInterrupt(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	set(t, s, entry("10.96.0.1:80", backends("10.0.0.1:1")...))
	// A Set that ended between the words and the frontends, and a slot run
	// that holds what isn't the word's.
	stray := objects.MapBackend{Port: 1, Service: 77}
	if err := l.maps.Backends.Update(uint32(500), &stray, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	s.setWord(77, indexes.One(900))
	if err := l.maps.Slots.Update(uint32(1), uint32(500), ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}

	again := l.open(t)
	if again.word(77).N != 0 {
		t.Error("word without frontend: want cleared")
	}
	set(t, again, entry("10.96.0.1:80", backends("10.0.0.1:1")...))
	l.want(t, "10.96.0.1:80", "10.0.0.1:1")
	var b objects.MapBackend
	if err := l.maps.Backends.Lookup(uint32(500), &b); err != nil || b != (objects.MapBackend{}) {
		t.Errorf("stray backend: want cleared, got %+v, %v", b, err)
	}
}

func TestNoRoom(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	s.slotIDs = indexes.New(3)
	set(t, s, entry("10.96.0.1:80", backends("10.0.0.1:1")...))
	err := s.Set([]service.Entry{
		entry("10.96.0.1:80", backends("10.0.0.1:1")...),
		entry("10.96.0.2:80", backends("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")...),
		entry("10.96.0.3:80", backends("10.0.0.9:1")...),
	})
	if err == nil {
		t.Fatal("want an error for the Service that doesn't fit")
	}
	t.Log(err)
	l.want(t, "10.96.0.1:80", "10.0.0.1:1")
	l.want(t, "10.96.0.3:80", "10.0.0.9:1")
	if used := s.backendIDs.Used() - s.backendIDs.Resting(); used != 2 {
		t.Errorf("backends: want 2 in use, got %d", used)
	}
}

// TestNoRoomForSourceRanges holds that a Service whose source ranges don't fit
// is not open to everybody instead.
func TestNoRoomForSourceRanges(t *testing.T) {
	l := newLab(t)
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["source_ranges"].MaxEntries = 2
	if l.maps.SourceRanges, err = ebpf.NewMap(spec.Maps["source_ranges"]); err != nil {
		t.Fatal(err)
	}
	defer l.maps.SourceRanges.Close()
	s := l.open(t)
	s.sourceIDs = indexes.New(100)
	guarded := entry("192.0.2.1:80", backends("10.0.0.1:1")...)
	guarded.SourceRanges = []netip.Prefix{
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.114.0/24"),
	}
	open := entry("192.0.2.2:80", backends("10.0.0.2:1")...)
	if err := s.Set([]service.Entry{guarded, open}); err == nil {
		t.Error("want an error for the source ranges that don't fit")
	}
	l.want(t, "192.0.2.2:80", "10.0.0.2:1")
	var fe objects.MapFrontend
	if err := l.maps.Frontends.Lookup(frontendKey(guarded.Frontend), &fe); err == nil {
		t.Errorf("frontend without its source ranges: %+v", fe)
	}
	if used := s.wordIDs.Used() - s.wordIDs.Resting(); used != 1 {
		t.Errorf("services: want 1 in use, got %d", used)
	}
	guarded.SourceRanges = guarded.SourceRanges[:2]
	set(t, s, guarded, open)
	l.want(t, "192.0.2.1:80", "10.0.0.1:1")
}

func TestFlush(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	udp := func(frontend string, serving string, b ...string) service.Entry {
		e := entry(frontend, backends(b...)...)
		e.Frontend.Protocol = service.UDP
		for addr := range strings.FieldsSeq(serving) {
			e.Serving = append(e.Serving, netip.MustParseAddrPort(addr))
		}
		return e
	}
	const first, second, other = "10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"
	client, dns, gone := netip.MustParseAddrPort("10.0.0.9:4000"), netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("10.96.0.11:53")
	set(t, s, udp(dns.String(), first+" "+second, first, second), udp(gone.String(), other, other))
	// flow makes both directions, at a port of the client's own.
	flow := func(proto uint8, frontend netip.AddrPort, backend string, port uint16) []objects.MapFlowKey {
		b, c, f := netip.MustParseAddrPort(backend), netip.AddrPortFrom(client.Addr(), port), frontend
		key := func(src, dst netip.AddrPort) objects.MapFlowKey {
			return objects.MapFlowKey{Saddr: objects.Addr(src.Addr()), Daddr: objects.Addr(dst.Addr()),
				Sport: objects.Port(src.Port()), Dport: objects.Port(dst.Port()), Proto: proto}
		}
		to := func(src, dst netip.AddrPort, flags objects.MapFlowFlags) *objects.MapFlow {
			return &objects.MapFlow{Saddr: objects.Addr(src.Addr()), Daddr: objects.Addr(dst.Addr()),
				Sport: objects.Port(src.Port()), Dport: objects.Port(dst.Port()), Backend: 1, Flags: uint8(flags)}
		}
		for k, v := range map[objects.MapFlowKey]*objects.MapFlow{
			key(c, f): to(c, b, 0), key(b, c): to(f, c, objects.MapFlowFlagsFLOW_REPLY),
		} {
			if err := l.maps.Flows.Update(k, v, ebpf.UpdateAny); err != nil {
				t.Fatal(err)
			}
		}
		return []objects.MapFlowKey{key(c, f), key(b, c)}
	}
	want := func(what string, keys []objects.MapFlowKey, there bool) {
		t.Helper()
		for _, key := range keys {
			var v objects.MapFlow
			if err := l.maps.Flows.Lookup(key, &v); (err == nil) != there {
				t.Errorf("%s: want there %v, got %v", what, there, err)
			}
		}
	}
	one, two, three := flow(17, dns, first, 1), flow(17, dns, second, 2), flow(17, gone, other, 3)
	tcp := flow(6, dns, first, 4)

	set(t, s, udp(dns.String(), first+" "+second, second), udp(gone.String(), other, other))
	want("an endpoint that still serves, though nothing new goes there", one, true)

	set(t, s, udp(dns.String(), second, second))
	want("an endpoint that no longer serves", one, false)
	want("one that does", two, true)
	want("a Service that is gone", three, false)
	want("TCP", tcp, true)

	one = flow(17, dns, first, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = l.open(t)
	set(t, s, udp(dns.String(), second, second))
	want("after a restart, one that serves", two, true)
	want("after a restart, one that doesn't", one, false)
}

// TestSetRandom compares many small changes with what one Set on fresh maps
// would give, and with what a restart reads back.
func TestSetRandom(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	for step := range 100 {
		var entries []service.Entry
		for i := range 12 {
			if rnd.IntN(4) == 0 {
				continue
			}
			var addrs []string
			for j := range 5 {
				if rnd.IntN(2) == 0 {
					addrs = append(addrs, fmt.Sprintf("10.0.%d.%d:1", i, j))
				}
			}
			e := entry(fmt.Sprintf("10.96.0.%d:%d", i/3, 80+i%3), backends(addrs...)...)
			e.Port.Name = fmt.Sprint(i)
			e.Consistent = i%4 == 0
			if rnd.IntN(3) == 0 {
				e.SourceRanges = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(rnd.IntN(2))}), 24)}
			}
			entries = append(entries, e)
		}
		set(t, s, entries...)
		l.now = l.now.Add(time.Duration(rnd.IntN(4)) * time.Second)
		if step%20 == 19 {
			s = l.open(t)
			set(t, s, entries...)
		}
		l.wantEntries(t, s, entries)
	}
}

// wantEntries wants the maps to hold exactly entries.
func (l *lab) wantEntries(t *testing.T, s *Services, entries []service.Entry) {
	t.Helper()
	keys := map[objects.MapFrontendKey]bool{}
	for _, e := range entries {
		keys[frontendKey(e.Frontend)], keys[addressKey(e.Frontend)] = true, true
		var want []string
		for _, b := range e.Backends {
			want = append(want, b.Addr.String())
		}
		l.want(t, netip.AddrPortFrom(e.Frontend.IP, e.Frontend.Port).String(), want...)
	}
	var key objects.MapFrontendKey
	var value objects.MapFrontend
	ranges := map[uint32]bool{}
	for it := l.maps.Frontends.Iterate(); it.Next(&key, &value); {
		if !keys[key] {
			t.Errorf("frontend %+v: want none", key)
		}
		if s.frontends[key] != value {
			t.Errorf("frontend %+v: map has %+v, owner %+v", key, value, s.frontends[key])
		}
		delete(keys, key)
		ranges[value.Ranges] = true
	}
	if len(keys) > 0 {
		t.Errorf("frontends: %d missing", len(keys))
	}
	var rangeKey objects.MapRangeKey
	var one uint32
	for it := l.maps.SourceRanges.Iterate(); it.Next(&rangeKey, &one); {
		if !ranges[rangeKey.Ranges] {
			t.Errorf("source ranges %d: no frontend has them", rangeKey.Ranges)
		}
	}
}

func many(n int) []service.Entry {
	entries := make([]service.Entry, n)
	for i := range entries {
		var addrs []string
		for j := range 10 {
			addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d:8080", 100+j, i>>8, i&0xff))
		}
		entries[i] = entry(fmt.Sprintf("10.96.%d.%d:80", i>>8, i&0xff), backends(addrs...)...)
	}
	return entries
}

func TestSetMany(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	entries := many(10000)
	start := time.Now()
	set(t, s, entries...)
	load := time.Since(start)

	start = time.Now()
	set(t, s, many(10000)...)
	same := time.Since(start)

	entries[5000].Backends = entries[5000].Backends[1:]
	start = time.Now()
	set(t, s, entries...)
	change := time.Since(start)

	start = time.Now()
	again := l.open(t)
	set(t, again, entries...)
	restart := time.Since(start)
	t.Logf("10,000 Services × 10: load %v, no change (with making input) %v, one change %v, restart %v", load, same, change, restart)
	if load > 3*time.Second {
		t.Errorf("load: want under 3 s, got %v", load)
	}
	l.want(t, "10.96.39.15:80", l.chosen(t, "10.96.39.15:80")...)
}

func TestFrontends(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	e := entry("10.96.0.1:80", backends("10.0.0.1:1", "10.0.0.2:1")...)
	e.Affinity = 1500 * time.Millisecond
	set(t, s, e)
	want := []Frontend{{
		Frontend: e.Frontend, Service: 1, Generation: 1, Slots: 2, Affinity: 2 * time.Second, SocketLB: true, Reject: true,
		Backends: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1")},
	}}
	if diff := cmp.Diff(want, s.Frontends(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("frontends (-want +got):\n%s", diff)
	}
}

// BenchmarkSetOne changes one Service of 10,000, as an endpoint's change does.
func BenchmarkSetOne(b *testing.B) {
	l := newLab(b)
	s := l.open(b)
	entries := many(10000)
	set(b, s, entries...)
	all := entries[5000].Backends
	for i := 0; b.Loop(); i++ {
		entries[5000].Backends = all[i%2:]
		set(b, s, entries...)
		l.now = l.now.Add(grace)
	}
}
