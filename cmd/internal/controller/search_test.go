// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// agent stands for the agent of a node with an external NIC: it reports of
// every search after a while, as occupied says.
type agent struct {
	c        *cluster
	takes    time.Duration
	long     bool // it says that it searches
	mu       sync.Mutex
	occupied map[string]bool
	claims   []v1alpha1.AddressConflict
	verified []v1alpha1.AddressVerification
}

func (c *cluster) node(name, address string) {
	c.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}})
}

func newAgent(c *cluster, occupied ...string) *agent {
	a := &agent{c: c, takes: 5 * time.Second, occupied: map[string]bool{}}
	for _, addr := range occupied {
		a.occupied[addr] = true
	}
	c.node("n1", "10.0.0.1")
	return a
}

func (a *agent) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// run reports until stopped.
func (a *agent) run() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	seen := map[string]time.Time{} // address and since → when first seen
	var last []v1alpha1.ProbeState
	go func() {
		defer close(ended)
		for first := true; ; first = false {
			var probes []v1alpha1.ProbeState
			a.mu.Lock()
			for _, obj := range a.c.snapshot()[source.KindIPAllocation] {
				spec := obj.(*v1alpha1.IPAllocation).Spec
				if spec.State != v1alpha1.AllocationReserved && spec.State != v1alpha1.AllocationConflicted {
					continue
				}
				key := spec.Address + spec.Since.String()
				if seen[key].IsZero() {
					seen[key] = time.Now()
				}
				if time.Since(seen[key]) < a.takes {
					if a.long {
						probes = append(probes, v1alpha1.ProbeState{Address: spec.Address, Since: spec.Since, Result: v1alpha1.ProbeSearching})
					}
					continue
				}
				p := v1alpha1.ProbeState{Address: spec.Address, Since: spec.Since, Result: v1alpha1.ProbeFree}
				if a.occupied[spec.Address] {
					p.Result, p.MAC = v1alpha1.ProbeConflict, "02:00:00:00:00:09"
				}
				probes = append(probes, p)
			}
			slices.SortFunc(probes, func(x, y v1alpha1.ProbeState) int { return strings.Compare(x.Address, y.Address) })
			if first || !slices.Equal(probes, last) || len(a.claims) > 0 {
				last = probes
				state := &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
				state.Status.NICs = []v1alpha1.NICState{{Name: "eth1", Role: "external", Carrier: true, Addresses: []string{"192.0.2.10/28", "fe80::1/64"}, Gateways: []string{"192.0.2.12"}}}
				state.Status.Announcements = []v1alpha1.AnnouncementState{{Address: "192.0.2.2", Interfaces: []string{"eth1"}}}
				state.Status.Probes, state.Status.Conflicts, state.Status.Verified = probes, slices.Clone(a.claims), a.verified
				a.c.put(state)
			}
			a.mu.Unlock()
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// begin starts a loop that waits for agents.
func begin(t *testing.T, c *cluster, now func() time.Time) (stop func()) {
	t.Helper()
	l := newLoop(access{c, c, c}, ourClass(), now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("want a clean end, got %v", err)
		}
	}
}

func (c *cluster) condition(name, kind string) metav1.Condition {
	if found := meta.FindStatusCondition(c.service(name).Status.Conditions, kind); found != nil {
		return *found
	}
	return metav1.Condition{}
}

func (c *cluster) pool() v1alpha1.IPPoolStatus {
	return c.snapshot()[source.KindIPPool][source.Key{Name: "external"}].(*v1alpha1.IPPool).Status
}

// TestSearchBeforeUse: reserved first, given when found free, passed over when
// occupied, and given after all once the other machine is gone.
func TestSearchBeforeUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		a := newAgent(c, "192.0.2.1", "192.0.2.7")
		defer a.run()()
		defer begin(t, c, time.Now)()
		c.put(lb("web"))
		c.put(lb("fixed", asking("192.0.2.7")))
		time.Sleep(2 * time.Second)
		if got := c.addrs("web"); got != "" || c.condition("web", v1alpha1.ConditionAddress).Reason != "Searching" {
			t.Errorf("want no address yet and the reason, got %q, %+v", got, c.condition("web", v1alpha1.ConditionAddress))
		}
		time.Sleep(15 * time.Second)
		c.check(t)
		if got := c.addrs("web"); got != "192.0.2.2" {
			t.Errorf("want the next address, got %q: %+v", got, c.condition("web", v1alpha1.ConditionAddress))
		}
		why := c.condition("fixed", v1alpha1.ConditionAddress)
		if c.addrs("fixed") != "" || why.Reason != "AddressConflict" || !strings.Contains(why.Message, "02:00:00:00:00:09, seen by node n1") {
			t.Errorf("want the requested one to wait and why, got %q, %+v", c.addrs("fixed"), why)
		}
		record := c.snapshot()[source.KindIPAllocation][source.Key{Name: "192.0.2.7"}].(*v1alpha1.IPAllocation)
		if record.Spec.State != v1alpha1.AllocationConflicted || record.Status.Conflict == nil || record.Status.Conflict.Node != "n1" {
			t.Errorf("want the conflict in its record, got %+v, %+v", record.Spec, record.Status)
		}
		st := c.pool()
		if st.Conflicted != 2 || len(st.Conflicts) != 2 || st.Conflicts[0].MAC != "02:00:00:00:00:09" || st.Conflicts[0].Node != "n1" || !meta.IsStatusConditionTrue(st.Conditions, "Conflicted") {
			t.Errorf("want both conflicts in the pool's status, got %+v", st)
		}
		if record = c.snapshot()[source.KindIPAllocation][source.Key{Name: "192.0.2.2"}].(*v1alpha1.IPAllocation); record.Status.Announcer != "n1" {
			t.Errorf("want who announces it in its record, got %+v", record.Status)
		}
		a.set(func() { clear(a.occupied) })
		time.Sleep(30 * time.Second)
		if got := c.addrs("fixed"); got != "192.0.2.7" || c.addrs("web") != "192.0.2.2" || c.pool().Conflicted != 0 || len(c.pool().Conflicts) != 0 {
			t.Errorf("want the requested one given once it is free, got %q; pool %+v", got, c.pool())
		}
		for _, want := range []string{"web Warning AddressConflict: another machine on the network uses 192.0.2.1", "fixed Warning AddressConflict: address is not free: another machine"} {
			if !slices.ContainsFunc(c.said, func(line string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("want event %q, got %q", want, c.said)
			}
		}
	})
}

// TestClaims: another machine that claims an address in use is told of, and the
// Service keeps the address.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		a := newAgent(c)
		defer a.run()()
		defer begin(t, c, time.Now)()
		c.put(lb("web"))
		time.Sleep(10 * time.Second)
		a.set(func() {
			a.claims = []v1alpha1.AddressConflict{{Address: "192.0.2.1", MAC: "02:00:00:00:00:09", Since: metav1.Now()}}
			a.verified = []v1alpha1.AddressVerification{{Address: "192.0.2.1", Node: "n2", Message: "nobody answers"}}
		})
		time.Sleep(2 * time.Second)
		condition := c.condition("web", v1alpha1.ConditionConflict)
		if c.addrs("web") != "192.0.2.1" || condition.Status != metav1.ConditionTrue || len(c.pool().Conflicts) != 1 {
			t.Errorf("want the conflict told and the address kept, got %q, %+v, %+v", c.addrs("web"), condition, c.pool())
		}
		if condition := c.condition("web", v1alpha1.ConditionUnreachable); condition.Message != "node n1 can't reach 192.0.2.1 over the wire: nobody answers" {
			t.Errorf("want what a node found over the wire told, got %+v", condition)
		}
		a.set(func() { a.claims, a.verified = nil, nil })
		a.c.put(lb("other")) // has the agent report
		time.Sleep(10 * time.Second)
		if conditions := c.service("web").Status.Conditions; len(conditions) != 1 || len(c.pool().Conflicts) != 0 {
			t.Errorf("want it over, got %+v, %+v", conditions, c.pool())
		}
	})
}

// TestNobodySearches: an address is given late rather than never.
func TestNobodySearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		c.node("n1", "10.0.0.1")
		defer begin(t, c, time.Now)()
		c.put(lb("web"))
		time.Sleep(20 * time.Second)
		if got := c.addrs("web"); got != "" {
			t.Errorf("want an agent waited for, got %q", got)
		}
		time.Sleep(30 * time.Second)
		if got := c.addrs("web"); got != "192.0.2.1" || !slices.ContainsFunc(c.said, func(s string) bool { return strings.Contains(s, "NotSearched") }) {
			t.Errorf("want it given and told, got %q, %q", got, c.said)
		}
		c.put(&v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1alpha1.NodeNetworkStateStatus{
			NICs: []v1alpha1.NICState{{Name: "eth0", Role: "external", Addresses: []string{"198.51.100.1/24"}}}}})
		c.put(lb("api"))
		time.Sleep(time.Second)
		condition := c.condition("api", v1alpha1.ConditionAddress)
		if got := c.addrs("api"); got != "192.0.2.2" || !strings.Contains(condition.Message, "no node has an external NIC on the network") {
			t.Errorf("want it given at once and the odd told, got %q, %+v", got, condition)
		}
	})
}

// TestSearchTakesLong: as long as an agent says that it searches, it is waited
// for.
func TestSearchTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		a := newAgent(c)
		a.takes, a.long = 5*time.Minute, true
		defer a.run()()
		defer begin(t, c, time.Now)()
		c.put(lb("web"))
		time.Sleep(4 * time.Minute)
		if got := c.addrs("web"); got != "" {
			t.Errorf("want the search waited for, got %q", got)
		}
		time.Sleep(2 * time.Minute)
		if got := c.addrs("web"); got != "192.0.2.1" || slices.ContainsFunc(c.said, func(s string) bool { return strings.Contains(s, "NotSearched") }) {
			t.Errorf("want it given when found free, got %q, %q", got, c.said)
		}
	})
}

// TestNetworksOwnAddresses: neither the addresses of nodes' NICs and gateways nor
// those that no machine of their network can have are given, though a range has them.
func TestNetworksOwnAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		p := pool("192.0.2.0/28")
		p.Spec.CIDRs, p.Spec.Ranges = nil, []v1alpha1.IPRange{{First: "192.0.2.8", Last: "192.0.2.17"}}
		p.Spec.Exclude, p.Spec.Gateway = []string{"192.0.2.8"}, "192.0.2.9"
		c.put(p)
		defer newAgent(c).run()()
		defer begin(t, c, time.Now)()
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			c.put(lb(name))
		}
		time.Sleep(20 * time.Second)
		given := ""
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			given += c.addrs(name) + " "
		}
		// .8 is excluded, .9 the pool's gateway, .10 the node's NIC, .12 its gateway, .15 its network's broadcast address.
		if given != "192.0.2.11 192.0.2.13 192.0.2.14 192.0.2.16 192.0.2.17    " {
			t.Errorf("want neither the excluded nor the network's own, got %q", given)
		}
	})
}

// TestPoolsEnd: what becomes of the addresses of a pool that is disabled,
// shrunk or removed: they stay, and it is told.
func TestPoolsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/29"))
		defer start(t, c)()
		c.put(lb("web"))
		time.Sleep(time.Second)
		disabled := pool("192.0.2.0/29")
		disabled.Spec.Disabled = true
		c.put(disabled)
		c.put(lb("api"))
		time.Sleep(time.Second)
		draining := meta.FindStatusCondition(c.pool().Conditions, "Draining")
		if c.addrs("web") != "192.0.2.1" || c.addrs("api") != "" || draining == nil || !strings.Contains(draining.Message, "default/web") {
			t.Errorf("disabled: want web's address kept, none given and it told, got %q, %q, %+v", c.addrs("web"), c.addrs("api"), draining)
		}
		c.remove(source.KindService, source.Key{Namespace: "default", Name: "web"})
		time.Sleep(time.Second)
		if draining = meta.FindStatusCondition(c.pool().Conditions, "Draining"); draining == nil || draining.Reason != "Drained" {
			t.Errorf("drained: want it told, got %+v", draining)
		}
		c.put(pool("192.0.2.0/29"))
		c.put(lb("web"))
		time.Sleep(time.Second)
		had := c.addrs("web")
		c.put(pool("192.0.2.64/29"))
		time.Sleep(time.Second)
		draining = meta.FindStatusCondition(c.pool().Conditions, "Draining")
		if c.addrs("web") != had || draining == nil || draining.Reason != "Shrunk" || !strings.Contains(c.condition("web", v1alpha1.ConditionAddress).Message, "no pool has "+had) {
			t.Errorf("shrunk: want %s kept and it told, got %q, %+v, %+v", had, c.addrs("web"), draining, c.condition("web", v1alpha1.ConditionAddress))
		}
		c.remove(source.KindIPPool, source.Key{Name: "external"})
		time.Sleep(time.Second)
		if got := c.addrs("web"); got != had {
			t.Errorf("removed: want %s kept, got %q", had, got)
		}
	})
}

// TestClockJumps: the wall clock jumps by a day and back, again and again; no
// address moves, none is given before it has rested, and one that has rested is.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		offset := time.Duration(0)
		wall := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Round(0).Add(offset)
		}
		jump := func() {
			mu.Lock()
			defer mu.Unlock()
			offset = []time.Duration{-24 * time.Hour, 0, 24 * time.Hour}[r.IntN(3)]
		}
		c := newCluster()
		c.put(pool("192.0.2.0/29"))
		l := newLoop(access{c, c, c}, ourClass(), wall, slog.New(slog.DiscardHandler))
		l.addresses.searches.Patience = 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		for _, name := range []string{"a", "b", "c"} {
			c.put(lb(name))
		}
		time.Sleep(time.Second)
		for range 100 {
			jump()
			c.put(lb("passing"))
			time.Sleep(time.Second)
			at := c.addrs("passing")
			c.remove(source.KindService, source.Key{Namespace: "default", Name: "passing"})
			time.Sleep(time.Second)
			jump()
			c.put(lb("next"))
			time.Sleep(time.Second)
			if got := c.addrs("next"); got == at || got == "" {
				t.Fatalf("want an address that has rested, not %s, got %q", at, got)
			}
			c.remove(source.KindService, source.Key{Namespace: "default", Name: "next"})
			time.Sleep(70 * time.Second)
			for i, name := range []string{"a", "b", "c"} {
				if got, want := c.addrs(name), netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}).String(); got != want {
					t.Fatalf("want %s to keep %s, got %q", name, want, got)
				}
			}
			c.check(t)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSearchRestarts kills the controller after any write, again and again,
// while an agent searches and other machines come and go. No address changes
// that a Service has, none is given twice, and none is given that was found in
// use when it was searched for.
func TestSearchRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		a := newAgent(c, "192.0.2.2", "192.0.2.5")
		a.takes = time.Second
		defer a.run()()
		for _, name := range []string{"x", "y"} {
			c.put(lb(name))
		}
		stop := begin(t, c, time.Now)
		time.Sleep(20 * time.Second)
		stop()
		keep := map[string]string{"x": c.addrs("x"), "y": c.addrs("y")}
		given := map[string]int{}
		for round := range 300 {
			c.change(func() { c.writes = r.IntN(10) - 1 })
			stop := begin(t, c, time.Now)
			for range r.IntN(4) {
				name := fmt.Sprint("s", r.IntN(5))
				switch {
				case c.service(name) != nil && r.IntN(2) == 0:
					c.remove(source.KindService, source.Key{Namespace: "default", Name: name})
				case r.IntN(3) == 0:
					c.put(lb(name, asking(fmt.Sprintf("192.0.2.%d", 1+r.IntN(14)))))
				default:
					c.put(lb(name))
				}
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			}
			stop()
			c.check(t)
			for name, want := range keep {
				if got := c.addrs(name); got != want || want == "" {
					t.Fatalf("round %d: want %s to keep %q, got %q", round, name, want, got)
				}
			}
			for i := range 5 {
				given[c.addrs(fmt.Sprint("s", i))]++
			}
		}
		if given["192.0.2.2"]+given["192.0.2.5"] > 0 || len(given) < 6 {
			t.Errorf("want many given, but none that others have, got %v", given)
		}
	})
}

// TestMetrics: the pools and what Services wait for can be scraped.
func TestMetrics(t *testing.T) {
	m := newMeter()
	m.planned(loadbalancer.Result{
		Usage:       []loadbalancer.Usage{{Pool: "external", Total: 14, Used: 3, Conflicted: 1, Strays: 2}},
		Assignments: []loadbalancer.Assignment{{Reason: loadbalancer.ErrConflict}, {Reason: loadbalancer.ErrSearching}, {}},
		Conflicts:   []loadbalancer.Conflict{{}},
		Early:       1,
	}, []network.Claim{{MAC: "x"}})
	m.planned(loadbalancer.Result{Usage: []loadbalancer.Usage{{Pool: "external", Total: 14, Used: 3, Conflicted: 1, Strays: 2}},
		Assignments: []loadbalancer.Assignment{{Reason: loadbalancer.ErrConflict}}}, []network.Claim{{MAC: "x"}})
	server := httptest.NewServer(m.handler(http.NotFoundHandler()))
	defer server.Close()
	response, err := http.Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`patchbay_pool_addresses{pool="external",state="free"} 11`, `patchbay_pool_addresses{pool="external",state="conflicted"} 1`,
		`patchbay_pool_addresses{pool="external",state="stray"} 2`, `patchbay_services_waiting{reason="AddressConflict"} 1`,
		`patchbay_address_conflicts_total{found="search"} 1`, `patchbay_address_conflicts_total{found="claim"} 1`, `patchbay_addresses_early_total 1`,
	} {
		if !strings.Contains(string(body), want+"\n") {
			t.Errorf("want %s, got\n%s", want, body)
		}
	}
	if strings.Contains(string(body), `reason="Searching"`) {
		t.Error("want what is over gone")
	}
}
