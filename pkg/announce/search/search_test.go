// SPDX-License-Identifier: Apache-2.0

package search

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// world is the objects of a cluster, and its nodes' NICs.
type world struct {
	t     *testing.T
	store *source.Store
}

func newWorld(t *testing.T, nodes ...string) world {
	w := world{t, source.NewStore()}
	for _, name := range nodes {
		w.put(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return w
}

func (w world) put(kind source.Kind, obj source.Object) {
	w.store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
}

func (w world) allocation(addr string, state v1alpha1.AllocationState) {
	w.put(source.KindIPAllocation, &v1alpha1.IPAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.AllocationName(netip.MustParseAddr(addr))},
		Spec:       v1alpha1.IPAllocationSpec{Address: addr, Pool: "p", State: state, Since: metav1.Unix(1000, 0)},
	})
}

func (w world) remove(addr string) {
	w.store.Apply(source.Event{Op: source.Delete, Kind: source.KindIPAllocation, Key: source.Key{Name: v1alpha1.AllocationName(netip.MustParseAddr(addr))}})
}

// report has another node report a NIC, and what it found.
func (w world) report(node, mac, address string, probes ...v1alpha1.ProbeState) {
	w.put(source.KindNodeNetworkState, &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1alpha1.NodeNetworkStateStatus{
		NICs:   []v1alpha1.NICState{{Name: "eth1", Role: "external", MAC: mac, Carrier: true, Addresses: []string{address}}},
		Probes: probes,
	}})
}

func (w world) objects(self string, nics ...nic.NIC) parts.Objects {
	return parts.Objects{Node: self, Store: w.store, NICs: nics, Known: true}
}

func eth(index int, mac [6]byte, addrs ...string) nic.NIC {
	n := nic.NIC{Link: netdev.Link{Index: index, Name: "eth1", MAC: mac, Carrier: true}, Role: nic.External}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, netip.MustParsePrefix(a))
	}
	return n
}

// result returns what the part reports of an address.
func result(s *Searches, addr string) (v1alpha1.ProbeState, bool) {
	var status v1alpha1.NodeNetworkStateStatus
	s.Part().Report(&status)
	for _, p := range status.Probes {
		if p.Address == addr {
			return p, true
		}
	}
	return v1alpha1.ProbeState{}, false
}

// TestWhoSearches: the node that would announce an address; another one later,
// and not once there is a result.
func TestWhoSearches(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.report("b", "02:00:00:00:00:0b", "192.0.2.2/24")
	on := eth(7, [6]byte{2, 0, 0, 0, 0, 10}, "192.0.2.1/24")
	delays := map[time.Duration]int{}
	for i := range 100 {
		addr := fmt.Sprintf("192.0.2.%d", 100+i)
		w.allocation(addr, v1alpha1.AllocationReserved)
		s := New(Options{Wake: func() {}, Log: slog.New(slog.DiscardHandler)})
		if err := s.sync(t.Context(), w.objects("a", on)); err != nil {
			t.Fatal(err)
		}
		task := s.tasks[netip.MustParseAddr(addr)]
		if task == nil {
			t.Fatalf("%s: want a search", addr)
		}
		delays[task.delay]++
		first := announce.Owner(netip.MustParseAddr(addr), []string{"a", "b"}) == "a"
		if first != (task.delay == 0) {
			t.Errorf("%s: want the first to search %v, got a delay of %s", addr, first, task.delay)
		}
		w.report("b", "02:00:00:00:00:0b", "192.0.2.2/24", v1alpha1.ProbeState{Address: addr, Since: metav1.Unix(1000, 0), Result: v1alpha1.ProbeFree})
		if err := s.sync(t.Context(), w.objects("a", on)); err != nil {
			t.Fatal(err)
		}
		if still := s.tasks[netip.MustParseAddr(addr)] != nil; still {
			t.Errorf("%s: want no search beside a result", addr)
		}
		w.report("b", "02:00:00:00:00:0b", "192.0.2.2/24")
		w.remove(addr)
	}
	if delays[0] < 30 || delays[stagger] < 30 || len(delays) != 2 {
		t.Errorf("want about half to be this node's, got %v", delays)
	}
	w.allocation("198.51.100.1", v1alpha1.AllocationReserved) // on nobody's network
	s := New(Options{Wake: func() {}, Log: slog.New(slog.DiscardHandler)})
	if _ = s.sync(t.Context(), w.objects("a", on)); len(s.tasks) > 0 {
		t.Errorf("want no search on another network, got %v", s.tasks)
	}
}

// TestAgain: an address that is in use is looked at each minute, and reported
// free when it is; a search that fails is made again soon; one that nobody
// wants any more ends.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		on := eth(7, [6]byte{2, 0, 0, 0, 0, 10}, "192.0.2.1/24")
		s := New(Options{Wake: func() {}, Log: slog.New(slog.DiscardHandler)})
		s.Held = func() []announce.Claim { return nil }
		var looks []time.Duration
		begun := time.Now()
		s.probe = func(_ context.Context, target probe.Target) (probe.Verdict, error) {
			looks = append(looks, time.Since(begun))
			switch n := len(looks); {
			case n == 1:
				time.Sleep(15 * time.Second) // as after many conflicts
				return probe.Verdict{}, errors.New("network is down")
			case n < 5:
				if target.Again != (n > 2) {
					t.Errorf("look %d: want it said that it was in use before, got %v", n, target.Again)
				}
				return probe.Verdict{Conflict: true, MAC: [6]byte{2, 0, 0, 0, 0, 9}}, nil
			}
			return probe.Verdict{}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		look := func(after time.Duration, want v1alpha1.ProbeResult) {
			t.Helper()
			time.Sleep(after)
			if err := s.sync(ctx, w.objects("a", on)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got, _ := result(s, "192.0.2.9"); got.Result != want {
				t.Errorf("%s after the beginning: want %q, got %+v", time.Since(begun), want, got)
			}
		}
		w.allocation("192.0.2.9", v1alpha1.AllocationReserved)
		look(0, "")
		look(14*time.Second, v1alpha1.ProbeSearching)
		look(4*time.Second, v1alpha1.ProbeConflict)
		w.allocation("192.0.2.9", v1alpha1.AllocationConflicted)
		look(time.Second, v1alpha1.ProbeConflict)
		look(2*time.Minute, v1alpha1.ProbeConflict)
		look(time.Minute, v1alpha1.ProbeFree)
		if want := []time.Duration{0, 17 * time.Second, 77 * time.Second, 137 * time.Second, 197 * time.Second}; !slices.Equal(looks, want) {
			t.Errorf("want looks at %v, got %v", want, looks)
		}
		w.remove("192.0.2.9")
		look(time.Second, "")
		time.Sleep(time.Hour)
		if len(looks) != 5 || len(s.tasks) != 0 {
			t.Errorf("want no more looks, got %v, %v", looks, s.tasks)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSearches has a part search on a real network: what is free is found so
// and guarded, what a real kernel has is found in use, and what is announced is
// watched over.
func TestSearches(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth1", peer, "eth0")
		peer.Addr(t, "eth0", "192.0.2.9/24")
		peer.Addr(t, "eth0", "fd00::9/64")
		w := newWorld(t, "a")
		on := eth(here.Index(t, "eth1"), here.MAC(t, "eth1"), "192.0.2.1/24", "fd00::1/64")
		woken := make(chan struct{}, 100)
		var conflicts atomic.Int32
		s := New(Options{Wake: func() { woken <- struct{}{} }, Conflict: func() { conflicts.Add(1) }, Log: slog.Default()})
		var held []announce.Claim
		s.Held = func() []announce.Claim { return held }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		sync := func() {
			t.Helper()
			if err := s.sync(t.Context(), w.objects("a", on)); err != nil {
				t.Fatal(err)
			}
		}
		for _, addr := range []string{"192.0.2.9", "fd00::9", "192.0.2.10", "fd00::10"} {
			w.allocation(addr, v1alpha1.AllocationReserved)
		}
		sync()
		netlab.WaitFor(t, 15*time.Second, "all results", func() error {
			for addr, want := range map[string]v1alpha1.ProbeResult{
				"192.0.2.9": v1alpha1.ProbeConflict, "fd00::9": v1alpha1.ProbeConflict, "192.0.2.10": v1alpha1.ProbeFree, "fd00::10": v1alpha1.ProbeFree,
			} {
				if got, _ := result(s, addr); got.Result != want || want == v1alpha1.ProbeConflict && got.MAC == "" {
					return fmt.Errorf("%s: want %s, got %+v", addr, want, got)
				}
			}
			return nil
		})
		if len(woken) < 4 || conflicts.Load() != 2 {
			t.Errorf("want every result reported and 2 conflicts counted, got %d and %d", len(woken), conflicts.Load())
		}
		// Found free and not announced yet: the kernel opposite finds it taken.
		peer.Exec(t, "ip", "addr", "add", "fd00::10/64", "dev", "eth0")
		netlab.WaitFor(t, 5*time.Second, "the guarded address is refused to others", func() error {
			if out := peer.Exec(t, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, "dadfailed") {
				return fmt.Errorf("addresses: %s", out)
			}
			return nil
		})
		// Given: no longer reported, guarded on until it is announced.
		w.allocation("192.0.2.10", v1alpha1.AllocationActive)
		held = []announce.Claim{{Addr: netip.MustParseAddr("192.0.2.10"), Link: on.Index}}
		sync()
		if _, ok := result(s, "192.0.2.10"); ok {
			t.Error("want nothing reported of an address that was given")
		}
		peer.Exec(t, "ip", "addr", "add", "192.0.2.10/24", "dev", "eth0")
		_, _ = peer.TryExec("ping", "-c1", "-W1", "-I", "192.0.2.10", "192.0.2.77") // asks in its name
		netlab.WaitFor(t, time.Second, "the claim is noticed within a second", func() error {
			var status v1alpha1.NodeNetworkStateStatus
			s.report(&status)
			if len(status.Conflicts) != 1 || status.Conflicts[0].Address != "192.0.2.10" {
				return fmt.Errorf("conflicts: %+v", status.Conflicts)
			}
			return nil
		})
	})
}
