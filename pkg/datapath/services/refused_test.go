// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// small makes one of the lab's maps hold no more than so many entries.
func (l *lab) small(t *testing.T, name string, m **ebpf.Map, entries uint32) {
	t.Helper()
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps[name].MaxEntries = entries
	if *m, err = ebpf.NewMap(spec.Maps[name]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { (*m).Close() })
}

// TestFull fills each map: the Services that it has no room for are named, the
// others are in force, and when there is room the refused ones are too.
func TestFull(t *testing.T) {
	three := func(name string, entries uint32, pick func(*Maps) **ebpf.Map) func(*testing.T, *lab) {
		return func(t *testing.T, l *lab) { l.small(t, name, pick(&l.maps), entries) }
	}
	for _, tt := range []struct {
		name  string
		small func(*testing.T, *lab)
	}{
		{"frontends", three("frontends", 2, func(m *Maps) **ebpf.Map { return &m.Frontends })},
		{"services", three("services", 3, func(m *Maps) **ebpf.Map { return &m.Services })},
		{"slots", three("slots", 5, func(m *Maps) **ebpf.Map { return &m.Slots })},
		{"backends", three("backends", 5, func(m *Maps) **ebpf.Map { return &m.Backends })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			tt.small(t, l)
			s := l.open(t)
			var all []service.Entry
			for i := 1; i <= 3; i++ {
				e := entry(fmt.Sprintf("10.96.0.%d:80", i), backends(fmt.Sprintf("10.0.%d.1:1", i), fmt.Sprintf("10.0.%d.2:1", i))...)
				e.Kind = service.NodePort // no entry for the address alone
				all = append(all, e)
			}
			for range 2 { // the second time, by what is there
				refused, rest := Refusals(s.Set(all))
				if rest != nil {
					t.Fatalf("%v", rest)
				}
				names := slices.Collect(maps.Keys(refused))
				if diff := cmp.Diff([]service.Name{{Namespace: "default", Name: "10.96.0.3"}}, names); diff != "" {
					t.Fatalf("refused (-want +got):\n%s", diff)
				}
				if !errors.Is(refused[names[0]], indexes.ErrFull) {
					t.Errorf("want %v, got %v", indexes.ErrFull, refused[names[0]])
				}
				l.want(t, "10.96.0.1:80", "10.0.1.1:1", "10.0.1.2:1")
				l.want(t, "10.96.0.2:80", "10.0.2.1:1", "10.0.2.2:1")
			}
			l.now = l.now.Add(2 * grace)
			set(t, s, all[0])
			l.now = l.now.Add(2 * grace)
			set(t, s, all[0], all[2])
			l.want(t, "10.96.0.3:80", "10.0.3.1:1", "10.0.3.2:1")
			l.want(t, "10.96.0.1:80", "10.0.1.1:1", "10.0.1.2:1")
		})
	}
}

// TestFullKeepsService holds that a Service that has no room for its new backends
// goes on with those that it had.
func TestFullKeepsService(t *testing.T) {
	l := newLab(t)
	l.small(t, "backends", &l.maps.Backends, 4)
	s := l.open(t)
	const fe = "10.96.0.1:80"
	set(t, s, entry(fe, backends("10.0.0.1:1", "10.0.0.2:1")...))
	err := s.Set([]service.Entry{entry(fe, backends("10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1")...)})
	if refused, rest := Refusals(err); len(refused) != 1 || rest != nil {
		t.Errorf("want the Service refused, got %v", err)
	}
	l.want(t, fe, "10.0.0.1:1", "10.0.0.2:1")
}

// TestRefusals takes errors apart.
func TestRefusals(t *testing.T) {
	web := &Refused{service.PortName{Namespace: "a", Name: "web", Port: "http"}, indexes.ErrFull}
	other := errors.New("other")
	refused, rest := Refusals(fmt.Errorf("set: %w", errors.Join(web, errors.Join(other, nil))))
	if refused[service.Name{Namespace: "a", Name: "web"}] != error(web) || !errors.Is(rest, other) {
		t.Errorf("got %v and %v", refused, rest)
	}
	if refused, rest := Refusals(fmt.Errorf("set: %w", errors.Join(web, web))); len(refused) != 1 || rest != nil {
		t.Errorf("got %v and %v, want one refusal alone", refused, rest)
	}
	if refused, rest := Refusals(nil); len(refused) != 0 || rest != nil {
		t.Errorf("got %v and %v, want nothing", refused, rest)
	}
}

// TestKept holds that the sockets of an endpoint that is chosen no more, but serves
// on, are left to it: also over a restart, and until it serves no more.
func TestKept(t *testing.T) {
	l := newLab(t)
	s := l.open(t)
	const gone, kept = uint8(objects.MapBackendFlagsBACKEND_GONE), uint8(objects.MapBackendFlagsBACKEND_KEPT)
	first, second := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53")
	dns := func(serving []netip.AddrPort, chosen ...string) service.Entry {
		e := entry("10.96.0.10:53", backends(chosen...)...)
		e.Frontend.Protocol, e.Serving = service.UDP, serving
		return e
	}
	both := []netip.AddrPort{first, second}
	want := func(what string, flags uint8, inUse uint32) {
		t.Helper()
		var b objects.MapBackend
		if err := l.maps.Backends.Lookup(uint32(1), &b); err != nil || b.Flags != flags || addrPort(b) != first {
			t.Errorf("%s: want %s with flags %d, got %s, %d, %v", what, first, flags, addrPort(b), b.Flags, err)
		}
		l.now = l.now.Add(2 * grace)
		s.Rest()
		if used := s.backendIDs.Used(); used != inUse {
			t.Errorf("%s: %d backends in use, want %d", what, used, inUse)
		}
	}
	set(t, s, dns(both, "10.0.0.1:53", "10.0.0.2:53"))
	want("chosen", 0, 2)
	set(t, s, dns(both, "10.0.0.2:53"))
	want("serves, not chosen", gone|kept, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = l.open(t)
	set(t, s, dns(both, "10.0.0.2:53"))
	want("after a restart", gone|kept, 2)
	set(t, s, dns(both, "10.0.0.1:53", "10.0.0.2:53"))
	want("chosen again", 0, 2)
	set(t, s, dns(both))
	want("nobody chosen", gone|kept, 2)
	set(t, s, dns(both[1:], "10.0.0.2:53"))
	want("serves no more", gone, 1)
	set(t, s)
	want("its Service gone", gone, 0)
}
