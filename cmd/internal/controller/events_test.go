// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// reports puts a node's report.
func (c *cluster) reports(node string, change func(*v1alpha1.NodeNetworkStateStatus)) {
	state := &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if old, ok := c.snapshot()[source.KindNodeNetworkState][source.Key{Name: node}].(*v1alpha1.NodeNetworkState); ok {
		state = old.DeepCopy()
	} else {
		state.Status.NICs = []v1alpha1.NICState{{Name: "eth1", Role: "external", Carrier: true, Addresses: []string{"192.0.2.10/24"}}}
	}
	change(&state.Status)
	c.put(state)
}

// heard returns the events since it was last asked.
func (c *cluster) heard() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := c.said
	c.said = nil
	return said
}

// announces is a report of one address announced, or of none.
func announces(epoch int64, reason, waived string) func(*v1alpha1.NodeNetworkStateStatus) {
	return func(s *v1alpha1.NodeNetworkStateStatus) {
		s.Announcements = []v1alpha1.AnnouncementState{{Address: "192.0.2.1", Interfaces: []string{"eth1"}, Epoch: epoch, Reason: reason, Waived: waived}}
	}
}

// TestEvents: what becomes of a Service's address is told on the Service, once,
// whatever passes and whatever controllers there are meanwhile; and conditions
// say the same for as long as it lasts.
func TestEvents(t *testing.T) {
	mac := "02:00:00:00:00:09"
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		for node, addr := range map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"} {
			c.node(node, addr)
			c.reports(node, func(*v1alpha1.NodeNetworkStateStatus) {})
		}
		c.put(pool("192.0.2.0/29"))
		found := func(result v1alpha1.ProbeResult, addr string) func(*v1alpha1.NodeNetworkStateStatus) {
			return func(s *v1alpha1.NodeNetworkStateStatus) {
				record := c.snapshot()[source.KindIPAllocation][source.Key{Name: addr}].(*v1alpha1.IPAllocation)
				s.Probes = append(s.Probes, v1alpha1.ProbeState{Address: addr, Since: record.Spec.Since, Result: result})
				if result == v1alpha1.ProbeConflict {
					s.Probes[len(s.Probes)-1].MAC = mac
				}
			}
		}
		stop := begin(t, c, time.Now)
		for _, step := range []struct {
			name      string
			do        func()
			want      []string
			condition string // type and text
		}{
			{"requested", func() { c.put(lb("web", asking("192.0.2.2"))) },
				[]string{"web Normal Searching: searching the network for other machines with 192.0.2.2"}, "Address searching the network for other machines with 192.0.2.2"},
			{"in use", func() { c.reports("b", found(v1alpha1.ProbeConflict, "192.0.2.2")) }, []string{
				"web Warning AddressConflict: address is not free: another machine on the network uses 192.0.2.2 (" + mac + ", seen by node b)",
			}, "Address address is not free: another machine on the network uses 192.0.2.2 (" + mac + ", seen by node b)"},
			{"any will do", func() { c.put(lb("web")) }, []string{"web Normal Searching: searching the network for other machines with 192.0.2.1"}, "Address searching the network for other machines with 192.0.2.1"},
			{"free", func() { c.reports("a", found(v1alpha1.ProbeFree, "192.0.2.1")) }, []string{"web Normal AddressesAssigned: 192.0.2.1"}, "Address "},
			{"announced", func() { c.reports("a", announces(1, "nobody has it", "")) }, []string{"web Normal AddressAnnounced: 192.0.2.1 is announced by node a: nobody has it"}, "Address "},
			{"the dead node's report stays", func() { c.reports("b", announces(2, "a gave it up", "")) }, []string{"web Normal AddressMoved: 192.0.2.1 moved from node a to node b: a gave it up"}, "Address "},
			{"its agent restarts", func() { c.reports("b", announces(0, "held since before the agent's start", "")) }, nil, "Address "},
			{"it moves back", func() {
				c.reports("b", func(s *v1alpha1.NodeNetworkStateStatus) { s.Announcements = nil })
				c.reports("a", announces(3, "b handed it over", ""))
			}, []string{"web Normal AddressMoved: 192.0.2.1 moved from node b to node a: b handed it over"}, "Address "},
			{"a label set aside", func() { c.reports("a", announces(3, "b handed it over", "all nodes are excluded from load balancing")) },
				[]string{"web Warning NodeConditionWaived: node a announces 192.0.2.1 though all nodes are excluded from load balancing"},
				"Address node a announces 192.0.2.1 though all nodes are excluded from load balancing"},
			{"no longer", func() { c.reports("a", announces(3, "b handed it over", "")) }, nil, "Address "},
			{"claimed", func() {
				c.reports("a", func(s *v1alpha1.NodeNetworkStateStatus) {
					s.Conflicts = []v1alpha1.AddressConflict{{Address: "192.0.2.1", MAC: mac, Since: metav1.Now()}}
				})
			}, []string{"web Warning AddressConflict: another machine on the network claims 192.0.2.1 (" + mac + ", seen by node a, which defends it and goes on answering)"},
				"AddressConflict another machine on the network claims 192.0.2.1 (" + mac + ", seen by node a, which defends it and goes on answering)"},
			{"that is over", func() { c.reports("a", func(s *v1alpha1.NodeNetworkStateStatus) { s.Conflicts = nil }) },
				[]string{"web Normal AddressConflictOver: it is over"}, "Address "},
			{"not reachable", func() {
				c.reports("b", func(s *v1alpha1.NodeNetworkStateStatus) {
					s.Verified = []v1alpha1.AddressVerification{{Address: "192.0.2.1", Node: "a", Message: "nobody answers"}}
				})
			}, []string{"web Warning AddressUnreachable: node b can't reach 192.0.2.1 over the wire: nobody answers"},
				"AddressUnreachable node b can't reach 192.0.2.1 over the wire: nobody answers"},
			{"reachable again", func() { c.reports("b", func(s *v1alpha1.NodeNetworkStateStatus) { s.Verified = nil }) },
				[]string{"web Normal AddressUnreachableOver: it is over"}, "Address "},
			{"a stranger, found at a takeover", func() {
				c.reports("a", func(s *v1alpha1.NodeNetworkStateStatus) {
					s.Announcements = nil
					s.Conditions = []metav1.Condition{{Type: v1alpha1.NodeConditionConflict + "192.0.2.1", Status: metav1.ConditionTrue, Message: "192.0.2.1 is used by " + mac + ", which is no node of the cluster"}}
				})
			}, []string{"web Warning AddressConflict: another machine on the network uses 192.0.2.1 (" + mac + ", seen by node a): no node answers for it before that stops"},
				"AddressConflict another machine on the network uses 192.0.2.1 (" + mac + ", seen by node a): no node answers for it before that stops"},
			{"it went", func() {
				c.reports("a", func(s *v1alpha1.NodeNetworkStateStatus) { s.Conditions = nil })
				c.reports("a", announces(4, "nobody has it", ""))
			}, []string{"web Normal AddressConflictOver: it is over", "web Normal AddressAnnounced: 192.0.2.1 is announced by node a: nobody has it"}, "Address "},
			{"its pool is removed", func() { c.remove(source.KindIPPool, source.Key{Name: "external"}) },
				[]string{"web Warning NoPoolAnyMore: no pool has 192.0.2.1 any more; the Service keeps it until it asks for another"},
				"Address no pool has 192.0.2.1 any more; the Service keeps it until it asks for another"},
		} {
			step.do()
			time.Sleep(time.Second)
			synctest.Wait()
			got := c.heard()
			quiet := 7 * time.Minute // of passes
			if strings.Contains(step.condition, "searching") {
				quiet = 20 * time.Second // longer, and it would be given without
			}
			time.Sleep(quiet)
			stop()
			stop = begin(t, c, time.Now)
			time.Sleep(min(quiet, time.Minute))
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("%s: events (-want +got):\n%s", step.name, diff)
			}
			if again := c.heard(); len(again) > 0 {
				t.Errorf("%s: want it told once, got also %q", step.name, again)
			}
			kind, text, _ := strings.Cut(step.condition, " ")
			if found := meta.FindStatusCondition(c.service("web").Status.Conditions, v1alpha1.Group+"/"+kind); found == nil || found.Message != text {
				t.Errorf("%s: want condition %s %q, got %+v", step.name, kind, text, c.service("web").Status.Conditions)
			}
		}
		stop()
	})
}
