// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// until waits for a condition of an object to say something.
func (s realSite) until(t *testing.T, path, condition string, want ...string) {
	t.Helper()
	s.Until(t, path+" says "+strings.Join(want, ", "), func() error {
		var obj struct {
			Status struct {
				Conditions []metav1.Condition `json:"conditions"`
			} `json:"status"`
		}
		if err := s.Get(path, &obj); err != nil {
			return err
		}
		found := meta.FindStatusCondition(obj.Status.Conditions, condition)
		if found == nil {
			return fmt.Errorf("conditions: %+v", obj.Status.Conditions)
		}
		for _, text := range want {
			if said := string(found.Status) + " " + found.Reason + " " + found.Message; !strings.Contains(said, text) {
				return fmt.Errorf("it says %q", said)
			}
		}
		return nil
	})
}

func poolManifest(spec string) string {
	return "{apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: x}, spec: {" + spec + "}}"
}

// TestBadPoolsReal: an API server refuses bad pools and records, and says in
// words what is wrong with them.
func TestBadPoolsReal(t *testing.T) {
	s := newRealSite(t)
	const pool, record = pathPools + "/x", pathAllocations + "/192.0.2.1"
	allocation := func(spec string) string {
		return "{apiVersion: patchbay.net/v1alpha1, kind: IPAllocation, metadata: {name: 192.0.2.1}, spec: {" + spec + "}}"
	}
	for _, tt := range []struct{ path, text, want string }{
		{pool, poolManifest("use: Nobody, cidrs: [192.0.2.0/28]"), `Unsupported value: \"Nobody\"`},
		{pool, poolManifest("use: LoadBalancer"), "cidrs or ranges must have an entry"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.1/28]"), "must be a prefix without host bits, such as 10.0.0.0/24"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0]"), "must be a prefix without host bits"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [127.0.0.0/24]"), "unicast addresses that aren't link-local or loopback"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [224.0.0.0/24]"), "unicast addresses that aren't link-local or loopback"},
		{pool, poolManifest("use: LoadBalancer, cidrs: ['fe80::/64']"), "unicast addresses that aren't link-local or loopback"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28, 192.0.2.0/28]"), "duplicate"},
		{pool, poolManifest("use: LoadBalancer, ranges: [{first: 192.0.2.9, last: 192.0.2.3}]"), "first must not be above last"},
		{pool, poolManifest("use: LoadBalancer, ranges: [{first: 192.0.2.9, last: 'fd00::9'}]"), "first and last must be addresses of one family"},
		{pool, poolManifest("use: LoadBalancer, ranges: [{first: here, last: there}]"), "first and last must be addresses of one family"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], exclude: [that]"), "must be an address, or a prefix without host bits"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], gateway: 'fd00::1'"), "with a gateway all cidrs are of its family"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], gateway: none"), "must be an address"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], blockSize: 30"), "only a pool for pods has blocks"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], coolDown: 48h"), "must be from 0s to 24h"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], static: [{address: 192.0.2.1, name: vm}]"), "only a pool for nodes has them"},
		{pool, poolManifest("use: Pod, ranges: [{first: 192.0.2.1, last: 192.0.2.3}]"), "a pool for pods is cut into blocks and takes cidrs only"},
		{pool, poolManifest("use: Pod, cidrs: [192.0.2.0/28], serviceSelector: {matchLabels: {a: b}}"), "only a pool for LoadBalancer Services has one"},
		{pool, poolManifest("use: LoadBalancer, cidrs: [192.0.2.0/28], autoassign: false"), "field not declared in schema"},
		{pathPools + "/external", strings.Replace(poolManifest("use: Node, cidrs: [192.0.2.0/28]"), "name: x", "name: external", 1), "can't be changed; delete the object and create it anew"},
		{record, allocation("address: 192.0.2.1, pool: a, state: Active"), "a reserved or active address has an owner"},
		{record, allocation("address: 192.0.2.1, pool: a, state: Given"), `Unsupported value: \"Given\"`},
		{record, allocation("address: 192.0.2.1/32, pool: a, state: Cooling"), "must be an address"},
		{record, allocation("address: 169.254.0.1, pool: a, state: Cooling"), "must be a unicast address"},
		{record, allocation("address: 192.0.2.1, pool: '', state: Cooling"), "spec.pool"},
		{record, allocation("address: 192.0.2.1, pool: a, state: Active, owners: [{namespace: a, name: x}, {namespace: a, name: z}]"), "only with a sharing key several Services have one address"},
	} {
		switch err := s.TryApply(tt.path, tt.text); {
		case err == nil:
			t.Errorf("%s: want it refused", tt.text)
		case !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: want %q, got %v", tt.text, tt.want, err)
		default:
			_, said, _ := strings.Cut(err.Error(), `"message":`)
			t.Logf("%s: %s", tt.text, said)
		}
	}
}

// TestPoolsEndReal: what becomes of Services whose pool overlaps another one, is
// shrunk below what is used, drained and removed: they keep what they have, and
// pools and Services say so.
func TestPoolsEndReal(t *testing.T) {
	s := newRealSite(t)
	defer s.startProcess(t)(syscall.SIGTERM)
	external := func(spec string) {
		s.Apply(t, pathPools+"/external", strings.Replace(poolManifest("use: LoadBalancer, "+spec), "name: x", "name: external", 1))
	}
	has := map[string]string{}
	for i := range 4 {
		name := fmt.Sprint("s", i)
		s.service(t, name)
		s.untilHas(t, name)
		has[name] = s.look(t).addrs(name)
	}
	keep := func(what string) {
		t.Helper()
		for name, want := range has {
			if got := s.look(t).addrs(name); got != want {
				t.Errorf("%s: want %s to keep %s, got %q", what, name, want, got)
			}
		}
	}
	s.Apply(t, pathPools+"/x", poolManifest("use: LoadBalancer, ranges: [{first: 192.0.2.14, last: 192.0.2.20}]"))
	s.until(t, pathPools+"/x", "Overlapping", "True", "192.0.2.14-192.0.2.20 overlaps 192.0.2.0-192.0.2.15 of IPPool external")
	s.until(t, pathPools+"/external", "Overlapping", "True", "of IPPool x")
	s.Delete(t, pathPools+"/x")
	s.until(t, pathPools+"/external", "Overlapping", "False")
	keep("overlapping")

	external("cidrs: [192.0.2.0/30]") // .1 and .2; the Services have .1 to .4
	s.until(t, pathPools+"/external", "Draining", "True Shrunk 2 addresses that it gave are no longer its own; their Services keep them")
	s.until(t, pathServices+"/s3", v1alpha1.ConditionAddress, "True NoPoolAnyMore no pool has 192.0.2.4 any more; the Service keeps it until it asks for another")
	var p v1alpha1.IPPool
	if err := s.Get(pathPools+"/external", &p); err != nil || p.Status.Total != 2 || p.Status.Used != 2 || p.Status.Free != 0 {
		t.Errorf("shrunk: want 2 addresses, 2 used, got %+v, %v", p.Status, err)
	}
	s.service(t, "late")
	s.until(t, pathServices+"/late", v1alpha1.ConditionAddress, "False PoolExhausted no free address: pool external")
	keep("shrunk")

	external("cidrs: [192.0.2.0/28], disabled: true")
	s.until(t, pathPools+"/external", "Draining", "True InUse disabled; addresses are still those of default/s0, default/s1, default/s2, default/s3")
	s.until(t, pathServices+"/late", v1alpha1.ConditionAddress, "False NoPool no pool for an IPv4 address: external is disabled")
	keep("disabled")

	s.Delete(t, pathPools+"/external")
	s.until(t, pathServices+"/s0", v1alpha1.ConditionAddress, "True NoPoolAnyMore no pool has 192.0.2.1 any more")
	s.until(t, pathServices+"/late", v1alpha1.ConditionAddress, "False NoPool no pool of use LoadBalancer")
	keep("removed")
	s.Until(t, "an event says so", func() error {
		var events corev1.EventList
		if err := s.Get("/api/v1/namespaces/default/events", &events); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == "s0" && e.Reason == "NoPoolAnyMore" && e.Type == corev1.EventTypeWarning && e.Count == 1 {
				return nil
			}
		}
		return fmt.Errorf("%d events", len(events.Items))
	})

	external("cidrs: [192.0.2.0/28]")
	s.until(t, pathServices+"/s0", v1alpha1.ConditionAddress, "True Assigned")
	s.untilHas(t, "late")
	keep("there again")
}
