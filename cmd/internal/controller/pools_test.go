// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// named is a pool of LoadBalancer addresses.
func named(name string, change func(*v1alpha1.IPPoolSpec)) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer}}
	change(&p.Spec)
	return p
}

func span(first, last string) []v1alpha1.IPRange {
	return []v1alpha1.IPRange{{First: first, Last: last}}
}

// TestPoolsGive: of several pools each Service gets what it may have and wants.
func TestPoolsGive(t *testing.T) {
	no := false
	pools := []*v1alpha1.IPPool{
		named("plain", func(s *v1alpha1.IPPoolSpec) {
			s.CIDRs, s.Exclude, s.Gateway = []string{"192.0.2.0/28"}, []string{"192.0.2.3", "192.0.2.4/31"}, "192.0.2.1"
		}),
		named("six", func(s *v1alpha1.IPPoolSpec) {
			s.CIDRs, s.Ranges = []string{"fd00:6::/120"}, span("fd00:66::5", "fd00:66::6")
		}),
		named("gold", func(s *v1alpha1.IPPoolSpec) {
			s.Ranges, s.Priority = slices.Concat(span("198.51.100.10", "198.51.100.19"), span("fd00:9::10", "fd00:9::19")), 10
			s.NamespaceSelector = &v1alpha1.Selector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "gold"}}
		}),
		named("web", func(s *v1alpha1.IPPoolSpec) {
			s.Ranges, s.Priority = span("198.51.100.20", "198.51.100.29"), 5
			s.ServiceSelector = &v1alpha1.Selector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "web"}}
		}),
		named("asked", func(s *v1alpha1.IPPoolSpec) { s.Ranges, s.AutoAssign = span("198.51.100.30", "198.51.100.39"), &no }),
	}
	annotated := func(key, value string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Annotations = map[string]string{key: value} }
	}
	web := func(s *corev1.Service) { s.Labels = map[string]string{"app": "web"} }
	in := func(namespace string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Namespace = namespace }
	}
	families := func(policy corev1.IPFamilyPolicy, list ...corev1.IPFamily) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = list, &policy }
	}
	class := func(name string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
	}
	field := func(addr string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerIP = addr }
	}
	both := families(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
	all := families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
	for _, tt := range []struct {
		name   string
		change []func(*corev1.Service)
		want   string // addresses, or the reason for none
	}{
		{"the first of a cidr, but for network, gateway, exclusions", nil, "192.0.2.2"},
		{"IPv6, but for its network's own", []func(*corev1.Service){families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol)}, "fd00:6::1"},
		{"the highest priority that admits the namespace", []func(*corev1.Service){in("gold"), web}, "198.51.100.10"},
		{"the highest priority that admits the Service", []func(*corev1.Service){web}, "198.51.100.20"},
		{"a pool by its name", []func(*corev1.Service){annotated(v1alpha1.AnnotationPools, "asked")}, "198.51.100.30"},
		{"a pool by its name that doesn't admit it", []func(*corev1.Service){annotated(v1alpha1.AnnotationPools, "gold")}, "NoPool"},
		{"an address of a pool that isn't given by itself", []func(*corev1.Service){asking("198.51.100.35")}, "198.51.100.35"},
		{"by spec.loadBalancerIP", []func(*corev1.Service){field("192.0.2.9")}, "192.0.2.9"},
		{"by both, one of each family", []func(*corev1.Service){both, asking("fd00:66::6"), field("192.0.2.9")}, "192.0.2.9 fd00:66::6"},
		{"by both, of one family: the annotation", []func(*corev1.Service){asking("192.0.2.8"), field("192.0.2.9")}, "192.0.2.8"},
		{"two of one family", []func(*corev1.Service){asking("192.0.2.8,192.0.2.9")}, "InvalidRequest"},
		{"excluded", []func(*corev1.Service){asking("192.0.2.5")}, "NoPool"},
		{"the gateway", []func(*corev1.Service){asking("192.0.2.1")}, "NoPool"},
		{"the network's address", []func(*corev1.Service){asking("192.0.2.0")}, "NoPool"},
		{"the broadcast address", []func(*corev1.Service){asking("192.0.2.15")}, "NoPool"},
		{"a node's", []func(*corev1.Service){asking("192.0.2.14")}, "AddressInUse"},
		{"PreferDualStack", []func(*corev1.Service){both}, "192.0.2.2 fd00:6::1"},
		{"PreferDualStack where a pool has one family", []func(*corev1.Service){both, annotated(v1alpha1.AnnotationPools, "asked")}, "198.51.100.30"},
		{"RequireDualStack", []func(*corev1.Service){all}, "192.0.2.2 fd00:6::1"},
		{"RequireDualStack where a pool has one family", []func(*corev1.Service){all, annotated(v1alpha1.AnnotationPools, "asked")}, "NoPool"},
		{"our class", []func(*corev1.Service){class(v1alpha1.LoadBalancerClass)}, "192.0.2.2"},
		{"another's class", []func(*corev1.Service){class("example.com/lb")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				c.node("n1", "192.0.2.14")
				for _, p := range pools {
					c.put(p.DeepCopy())
				}
				c.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gold", Labels: map[string]string{"tier": "gold"}}})
				svc := lb("x", tt.change...)
				c.put(svc)
				runFor(t, c)
				got := ""
				now := c.snapshot()[source.KindService][source.KeyOf(svc)].(*corev1.Service)
				for i, in := range now.Status.LoadBalancer.Ingress {
					if got += in.IP; i+1 < len(now.Status.LoadBalancer.Ingress) {
						got += " "
					}
				}
				found := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionAddress)
				if got == "" && found != nil {
					got = found.Reason
				}
				if got != tt.want {
					t.Errorf("want %q, got %q, %+v", tt.want, got, found)
				}
			})
		})
	}
}

// TestPoolStatus: a pool counts what it has, what is used, at rest included, in
// conflict, and left.
func TestPoolStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.put(pool("192.0.2.0/28"))
		a := newAgent(c, "192.0.2.1")
		a.takes = time.Second
		defer a.run()()
		defer begin(t, c, time.Now)()
		counts := func() string {
			time.Sleep(10 * time.Second)
			st := c.pool()
			return fmt.Sprintf("%d total, %d used, %d conflicted, %d free", st.Total, st.Used, st.Conflicted, st.Free)
		}
		for _, step := range []struct {
			do   func()
			want string
		}{
			{func() {}, "14 total, 0 used, 0 conflicted, 14 free"},
			{func() { c.put(lb("web")); c.put(lb("db")) }, "14 total, 3 used, 1 conflicted, 11 free"},
			{func() { c.remove(source.KindService, source.Key{Namespace: "default", Name: "db"}) }, "14 total, 3 used, 1 conflicted, 11 free"},
			{func() { a.set(func() { clear(a.occupied) }) }, "14 total, 2 used, 0 conflicted, 12 free"},
		} {
			step.do()
			if got := counts(); got != step.want {
				t.Errorf("want %s, got %s", step.want, got)
			}
		}
	})
}
