// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

func nodes(names ...string) *source.Store {
	store := source.NewStore()
	for _, name := range names {
		put(store, source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return store
}

func put(store *source.Store, kind source.Kind, obj source.Object) {
	store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
}

func report(store *source.Store, name, role string, addrs []string, probes ...v1alpha1.ProbeState) {
	put(store, source.KindNodeNetworkState, &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeNetworkStateStatus{
		NICs: []v1alpha1.NICState{{Name: "eth1", Role: role, Addresses: addrs}}, Probes: probes}})
}

func TestReaches(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	store := nodes()
	check := func(what string, is, maybe, unreached bool) {
		t.Helper()
		v := Read(store)
		if gotIs, gotMaybe := v.Reaches(addr); gotIs != is || gotMaybe != maybe || v.Unreached(addr) != unreached {
			t.Errorf("%s: want %v, %v and unreached %v, got %v, %v and %v", what, is, maybe, unreached, gotIs, gotMaybe, v.Unreached(addr))
		}
	}
	check("no nodes", false, false, false)
	store = nodes("a", "b")
	check("silent nodes", false, true, false)
	report(store, "a", "internal", []string{"192.0.2.1/24"})
	report(store, "b", "external", []string{"198.51.100.1/24"})
	check("another network", false, false, true)
	report(store, "b", "internal+external", []string{"192.0.2.2/24", "fe80::1/64"})
	check("reached", true, true, false)
	report(store, "b", "internal", nil)
	report(store, "gone", "external", []string{"192.0.2.3/24"})
	check("by a node that is gone", false, false, true)
}

func TestTaken(t *testing.T) {
	store := nodes("a")
	report(store, "a", "external", []string{"192.0.2.9/29", "fd00::9/64", "fe80::1/64", "198.51.100.1/32", "203.0.113.0/31"})
	state, _ := source.Get[*v1alpha1.NodeNetworkState](store, source.KindNodeNetworkState, source.Key{Name: "a"})
	state.Status.NICs[0].Gateways = []string{"192.0.2.14"}
	want := []string{"192.0.2.8", "192.0.2.9", "192.0.2.14", "192.0.2.15", "198.51.100.1", "203.0.113.0", "fd00::", "fd00::9"}
	var got []string
	for _, addr := range Read(store).Taken() {
		got = append(got, addr.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("taken (-want +got):\n%s", diff)
	}
}

func TestFindings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since, addr := time.Unix(1000, 0), netip.MustParseAddr("192.0.2.9")
		state := func(since int64, result v1alpha1.ProbeResult) v1alpha1.ProbeState {
			return v1alpha1.ProbeState{Address: "192.0.2.9", Since: metav1.Unix(since, 0), Result: result, MAC: "m"}
		}
		s := NewSearches()
		find := func(state loadbalancer.State, a, b []v1alpha1.ProbeState) loadbalancer.Finding {
			store := nodes("a", "b")
			report(store, "a", "external", []string{"192.0.2.1/24"}, a...)
			report(store, "b", "external", []string{"192.0.2.2/24"}, b...)
			r := loadbalancer.Record{Addr: addr, Since: since, State: state}
			return s.Finder(Read(store), []loadbalancer.Record{r})(r)
		}
		type list = []v1alpha1.ProbeState
		free, conflict, on := state(1000, v1alpha1.ProbeFree), state(1000, v1alpha1.ProbeConflict), state(1000, v1alpha1.ProbeSearching)
		for _, tt := range []struct {
			name string
			rec  loadbalancer.State
			a, b list
			want loadbalancer.Finding
		}{
			{"nothing yet", loadbalancer.Reserved, nil, nil, loadbalancer.Finding{}},
			{"of another search", loadbalancer.Reserved, list{state(999, v1alpha1.ProbeFree)}, nil, loadbalancer.Finding{}},
			{"on", loadbalancer.Reserved, list{on}, nil, loadbalancer.Finding{}},
			{"free", loadbalancer.Reserved, list{on}, list{free}, loadbalancer.Finding{Search: loadbalancer.Free}},
			{"one of two sees a machine", loadbalancer.Reserved, list{free}, list{conflict}, loadbalancer.Finding{Search: loadbalancer.Occupied, By: "m, seen by node b"}},
			{"in use, not looked at again", loadbalancer.Conflicted, nil, nil, loadbalancer.Finding{Search: loadbalancer.Occupied}},
			{"in use no longer", loadbalancer.Conflicted, nil, list{free}, loadbalancer.Finding{Search: loadbalancer.Free}},
		} {
			if got := find(tt.rec, tt.a, tt.b); got != tt.want {
				t.Errorf("%s: want %+v, got %+v", tt.name, tt.want, got)
			}
		}
		find(loadbalancer.Reserved, nil, nil) // reserved anew
		time.Sleep(patience)
		if got := find(loadbalancer.Reserved, list{on}, nil); got.Search != loadbalancer.Searching || s.Late(addr) {
			t.Errorf("on for long: want it waited for, got %+v", got)
		}
		if got := find(loadbalancer.Reserved, nil, nil); got.Search != loadbalancer.Impossible || !s.Late(addr) {
			t.Errorf("nobody searched: want it given up, got %+v", got)
		}
	})
}

// TestRests: what has rested is measured by the process's own clock.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freed := time.Now()
		r := NewRests()
		record := loadbalancer.Record{Addr: netip.MustParseAddr("192.0.2.9"), State: loadbalancer.Cooling, Since: freed}
		measure := func(wall time.Time) time.Duration { return r.Measure([]loadbalancer.Record{record}, wall)(record) }
		if got := measure(freed.Add(3 * time.Second)); got != 3*time.Second {
			t.Errorf("want what was before by the record, got %s", got)
		}
		time.Sleep(10 * time.Second)
		for _, jump := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour} {
			if got := measure(time.Now().Add(jump)); got != 13*time.Second {
				t.Errorf("clock set by %s: want 13s, got %s", jump, got)
			}
		}
		record.Since = freed.Add(time.Hour) // freed again, by a clock that was set
		if got := measure(freed); got != 0 {
			t.Errorf("freed again: want 0s, got %s", got)
		}
	})
}
