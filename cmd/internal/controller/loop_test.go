// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

func ourClass() convert.Class { return convert.Class{Name: v1alpha1.LoadBalancerClass, Default: true} }

// start runs a controller on c until the returned function is called.
func start(t *testing.T, c *cluster) (stop func()) {
	t.Helper()
	return startOn(t, access{c, c, c})
}

func startOn(t *testing.T, to access) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		l := newLoop(to, ourClass(), time.Now, slog.New(slog.DiscardHandler))
		l.addresses.searches.Patience = 0 // there are nodes without agents
		done <- l.Run(ctx)
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("want a clean end, got %v", err)
		}
	}
}

// runFor has a controller work for a while.
func runFor(t *testing.T, c *cluster) {
	t.Helper()
	defer start(t, c)()
	time.Sleep(time.Second)
}

func TestLoopGivesKeepsAndFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		defer start(t, c)()
		steps := []struct {
			name string
			do   func()
			want map[string]string
		}{
			{"no pool", func() { c.put(lb("web")) }, map[string]string{"web": ""}},
			{"a pool", func() { c.put(pool("192.0.2.0/29")) }, map[string]string{"web": "192.0.2.1"}},
			{"another Service", func() { c.put(lb("api")) }, map[string]string{"web": "192.0.2.1", "api": "192.0.2.2"}},
			{"a requested address", func() { c.put(lb("api", asking("192.0.2.5"))) }, map[string]string{"web": "192.0.2.1", "api": "192.0.2.5"}},
			{"of another class", func() {
				c.put(lb("other", func(s *corev1.Service) { class := "example.com/lb"; s.Spec.LoadBalancerClass = &class }))
			}, map[string]string{"web": "192.0.2.1", "api": "192.0.2.5", "other": ""}},
			{"of another type now", func() {
				c.put(lb("api", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }))
			}, map[string]string{"web": "192.0.2.1", "api": ""}},
			{"gone", func() { c.remove(source.KindService, source.Key{Namespace: "default", Name: "web"}) }, map[string]string{"web": ""}},
			{"made again, beside a new one", func() { c.put(lb("a")); c.put(lb("web")) }, map[string]string{"web": "192.0.2.1", "a": "192.0.2.3"}},
			{"a node's address", func() {
				c.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.4"}}}})
				c.put(lb("b"))
			}, map[string]string{"b": "192.0.2.6"}},
			{"after a cool-down", func() { time.Sleep(2 * time.Minute); c.put(lb("d")) }, map[string]string{"d": "192.0.2.2"}},
			{"exhausted", func() { c.put(lb("e")); c.put(lb("f")) }, map[string]string{"f": ""}},
			{"a pool for more", func() { c.put(pool("192.0.2.0/28")) }, map[string]string{"f": "192.0.2.7", "web": "192.0.2.1", "b": "192.0.2.6"}},
		}
		for _, step := range steps {
			step.do()
			time.Sleep(time.Second)
			synctest.Wait()
			c.check(t)
			for name, want := range step.want {
				if got := c.addrs(name); got != want {
					t.Errorf("%s: want %s to have %q, got %q", step.name, name, want, got)
				}
			}
		}
	})
}

func TestLoopTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(lb("web", asking("198.51.100.1")))
		c.put(pool("192.0.2.0/29"))
		defer start(t, c)()
		time.Sleep(time.Second)
		conditions := c.service("web").Status.Conditions
		if len(conditions) != 1 || conditions[0].Status != metav1.ConditionFalse || conditions[0].Reason != "NoPool" ||
			conditions[0].Message != "no pool: none has the requested address 198.51.100.1" {
			t.Errorf("want the reason in a condition, got %+v", conditions)
		}
		c.put(lb("web"))
		time.Sleep(time.Second)
		if conditions = c.service("web").Status.Conditions; len(conditions) != 1 || conditions[0].Status != metav1.ConditionTrue {
			t.Errorf("want the condition true, got %+v", conditions)
		}
		want := []string{"web Warning NoPool: no pool: none has the requested address 198.51.100.1", "web Normal AddressesAssigned: 192.0.2.1"}
		if diff := cmp.Diff(want, c.said); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		st := c.snapshot()[source.KindIPPool][source.Key{Name: "external"}].(*v1alpha1.IPPool).Status
		if st.Total != 6 || st.Used != 1 || st.Free != 5 {
			t.Errorf("want 6 addresses, 1 used and 5 free, got %+v", st)
		}
		bad := pool("192.0.2.0/29")
		bad.Spec.Ranges = []v1alpha1.IPRange{{First: "192.0.2.1", Last: "192.0.2.2"}}
		c.put(bad)
		time.Sleep(time.Second)
		st = c.snapshot()[source.KindIPPool][source.Key{Name: "external"}].(*v1alpha1.IPPool).Status
		if i := slices.IndexFunc(st.Conditions, func(c metav1.Condition) bool { return c.Type == "Ready" }); i < 0 || !strings.Contains(st.Conditions[i].Message, "overlaps") {
			t.Errorf("want the contradiction in a condition, got %+v", st.Conditions)
		}
		if got := c.addrs("web"); got != "192.0.2.1" {
			t.Errorf("want the address kept, got %q", got)
		}
	})
}

func TestLoopTellsOfOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		pods := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"192.0.2.0/28", "fd00::/64"}}}
		nodes := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "nodes"}, Spec: v1alpha1.IPPoolSpec{
			Use: v1alpha1.UseNode, CIDRs: []string{"192.0.2.0/24"}, Ranges: []v1alpha1.IPRange{{First: "192.0.2.100", Last: "192.0.2.109"}},
		}}
		c.put(pool("192.0.2.0/29"))
		c.put(pods)
		c.put(nodes)
		defer start(t, c)()
		condition := func(name string) string {
			time.Sleep(time.Second)
			obj := c.snapshot()[source.KindIPPool][source.Key{Name: name}].(*v1alpha1.IPPool)
			if i := slices.IndexFunc(obj.Status.Conditions, func(c metav1.Condition) bool { return c.Type == "Overlapping" }); i >= 0 {
				return string(obj.Status.Conditions[i].Status) + " " + obj.Status.Conditions[i].Message
			}
			return ""
		}
		for name, want := range map[string]string{
			"external": "True 192.0.2.0-192.0.2.7 overlaps 192.0.2.0-192.0.2.15 of IPPool pods",
			"pods":     "True 192.0.2.0-192.0.2.15 overlaps 192.0.2.0-192.0.2.7 of IPPool external",
			"nodes":    "",
		} {
			if got := condition(name); got != want {
				t.Errorf("%s: want %q, got %q", name, want, got)
			}
		}
		c.put(pool("192.0.2.128/29"))
		if got := condition("external"); got != "False " {
			t.Errorf("apart: want the condition false, got %q", got)
		}
	})
}

// The record of what a status is about to name comes before it, that of what is
// freed after it.
func TestLoopOrderOfWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/29"))
		c.put(lb("web"))
		defer start(t, c)()
		time.Sleep(time.Second)
		c.put(lb("web", asking("192.0.2.5")))
		time.Sleep(time.Second)
		got := c.logged()
		want := []string{"put 192.0.2.1", "status Service web", "put 192.0.2.5", "status Service web", "put 192.0.2.1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

// A write that fails is tried again, and nothing that depends on it goes on.
func TestLoopTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/29"))
		c.put(lb("web"))
		c.writes = 0
		defer start(t, c)()
		time.Sleep(10 * time.Second)
		if got := c.addrs("web"); got != "" {
			t.Errorf("want no address without its record, got %q", got)
		}
		c.change(func() { c.writes = -1 })
		time.Sleep(maxWait)
		c.check(t)
		if got := c.addrs("web"); got != "192.0.2.1" {
			t.Errorf("want the address after all, got %q", got)
		}
	})
}

// Nothing is given before everything was read: an address that looks free may
// be that of a Service yet to come.
func TestLoopWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		l := newLoop(access{c, c, c}, ourClass(), time.Now, slog.New(slog.DiscardHandler))
		for _, obj := range []source.Object{pool("192.0.2.0/29"), lb("web")} {
			c.put(obj)
			l.take(source.Event{Op: source.Upsert, Kind: kindOf(obj), Key: source.KeyOf(obj), Object: obj})
		}
		for _, kind := range kinds() {
			l.reconcile(t.Context())
			if got := c.logged(); len(got) > 0 {
				t.Fatalf("want no write before %s were read, got %v", kind, got)
			}
			l.take(source.Event{Op: source.Synced, Kind: kind})
		}
		if l.reconcile(t.Context()); len(c.logged()) == 0 {
			t.Error("want writes once all is read, got none")
		}
	})
}

// A Service whose file can't be read at the start keeps its address.
func TestLoopKeepsAddressesOfTheUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/30"))
		c.put(lb("web"))
		runFor(t, c)
		c.remove(source.KindService, source.Key{Namespace: "default", Name: "web"})
		l := newLoop(access{c, c, c}, ourClass(), time.Now, slog.New(slog.DiscardHandler))
		l.take(source.Event{Op: source.Problem, Err: errors.New("web.yaml: document 1: cut short")})
		for kind, objects := range c.snapshot() {
			for key, obj := range objects {
				l.take(source.Event{Op: source.Upsert, Kind: kind, Key: key, Object: obj})
			}
			l.take(source.Event{Op: source.Synced, Kind: kind})
		}
		c.logged()
		l.reconcile(t.Context())
		if got := c.logged(); len(got) > 0 {
			t.Errorf("want the record kept, got %v", got)
		}
		obj := lb("web")
		c.put(obj)
		l.take(source.Event{Op: source.Upsert, Kind: source.KindService, Key: source.KeyOf(obj), Object: obj})
		l.reconcile(t.Context())
		if got := c.addrs("web"); got != "192.0.2.1" {
			t.Errorf("want the old address, got %q", got)
		}
		l.take(source.Event{Op: source.Delete, Kind: source.KindService, Key: source.KeyOf(obj)})
		c.logged()
		l.reconcile(t.Context())
		if got := c.logged(); !slices.Contains(got, "put 192.0.2.1") {
			t.Errorf("want the address freed once the Service is gone for certain, got %v", got)
		}
	})
}

// A record that can't be read hides nobody's address.
func TestLoopUnreadableRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/29"))
		c.put(lb("web"))
		l := newLoop(access{c, c, c}, ourClass(), time.Now, slog.New(slog.DiscardHandler))
		l.take(source.Event{Op: source.Problem, Kind: source.KindIPAllocation, Key: source.Key{Name: "192.0.2.1"}, Err: errors.New("cut short")})
		for kind, objects := range c.snapshot() {
			for key, obj := range objects {
				l.take(source.Event{Op: source.Upsert, Kind: kind, Key: key, Object: obj})
			}
			l.take(source.Event{Op: source.Synced, Kind: kind})
		}
		l.reconcile(t.Context())
		if got := c.addrs("web"); got != "192.0.2.2" {
			t.Errorf("want the next address, got %q", got)
		}
	})
}

// TestLoopRestarts starts a controller 1,000 times amid Services that come, go
// and change, and kills it after a random number of writes. No address changes,
// none is given twice.
func TestLoopRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		keep := map[string]string{} // what long-lived Services must keep
		for i := range 5 {
			c.put(lb(fmt.Sprint("old", i)))
		}
		runFor(t, c)
		for i := range 5 {
			keep[fmt.Sprint("old", i)] = c.addrs(fmt.Sprint("old", i))
		}
		for round := range 1000 {
			c.change(func() { c.writes = r.IntN(12) - 1 })
			stop := start(t, c)
			for range r.IntN(4) {
				name := fmt.Sprint("s", r.IntN(6))
				switch {
				case c.service(name) != nil && r.IntN(2) == 0:
					c.remove(source.KindService, source.Key{Namespace: "default", Name: name})
				case r.IntN(3) == 0:
					c.put(lb(name, asking(fmt.Sprintf("192.0.2.%d", 1+r.IntN(14)))))
				default:
					c.put(lb(name))
				}
				time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
			}
			stop()
			c.check(t)
			for name, want := range keep {
				if got := c.addrs(name); got != want || want == "" {
					t.Fatalf("round %d: want %s to keep %q, got %q", round, name, want, got)
				}
			}
		}
	})
}
