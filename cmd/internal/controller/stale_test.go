// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/kube"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// place is where two controllers are at work at once: the one that was elected,
// and the one before, which stood still and doesn't know.
type place interface {
	reach(t *testing.T) access
	service(t *testing.T, name, asks string)
	end(t *testing.T, name string)
	look(t *testing.T) view
}

// stale is a writer that stands still before its first write of a kind, as with
// its whole machine, until it may go on.
type stale struct {
	recordWriter
	before       string
	stood, goOn  chan struct{}
	stoodAlready bool
}

func (s *stale) await(write string) {
	if write == s.before && !s.stoodAlready {
		s.stoodAlready = true
		close(s.stood)
		<-s.goOn
	}
}

func (s *stale) PutVersion(ctx context.Context, obj source.Object) error {
	write := "change"
	if obj.GetResourceVersion() == "" {
		write = "creation"
	}
	s.await(write)
	// What it had begun to send goes out, though it is the leader no longer.
	return s.recordWriter.PutVersion(context.WithoutCancel(ctx), obj)
}

// runStale has a controller stand still as it gives, or frees, an address, while
// another gives that to a Service that asks for it. The first then goes on.
func runStale(t *testing.T, p place, before string) {
	t.Helper()
	const addr = "192.0.2.1"
	to := p.reach(t)
	held := &stale{recordWriter: to.writer, before: before, stood: make(chan struct{}), goOn: make(chan struct{})}
	to.writer = held
	stopStale := startOn(t, to)
	p.service(t, "first", addr)
	if before == "change" {
		untilGiven(t, p, "first", addr)
		p.end(t, "first")
	}
	select {
	case <-held.stood:
	case <-time.After(time.Minute):
		t.Fatalf("no %s", before)
	}
	if before == "creation" {
		p.end(t, "first")
	}
	defer startOn(t, p.reach(t))()
	p.service(t, "second", addr)
	untilGiven(t, p, "second", addr)
	ended := make(chan struct{})
	go func() { stopStale(); close(ended) }()
	close(held.goOn)
	<-ended

	second := []v1alpha1.ServiceReference{{Namespace: "default", Name: "second"}}
	for _, when := range []string{"at once", "after another"} {
		v := p.look(t)
		v.check(t)
		if r := v.records[addr]; r.State != v1alpha1.AllocationActive || !slices.Equal(r.Owners, second) {
			t.Errorf("%s: record %+v, want it second's", when, r)
		}
		if got := v.addrs("second"); got != addr {
			t.Errorf("%s: second has %q, want it to keep %s", when, got, addr)
		}
		if when == "at once" {
			p.service(t, "third", "192.0.2.3")
			untilGiven(t, p, "third", "192.0.2.3")
		}
	}
}

func untilGiven(t *testing.T, p place, name, addr string) {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.NewTimer(2*time.Minute)
	defer tick.Stop()
	defer deadline.Stop()
	for {
		v := p.look(t)
		if v.addrs(name) == addr && v.records[addr].State == v1alpha1.AllocationActive {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s has %q, want %s; records %+v", name, v.addrs(name), addr, v.records)
		}
	}
}

// memory is a place without an API server.
type memory struct{ *cluster }

func (m memory) reach(*testing.T) access                 { return access{m.cluster, m.cluster, m.cluster} }
func (m memory) service(_ *testing.T, name, asks string) { m.put(lb(name, asking(asks))) }
func (m memory) end(_ *testing.T, name string) {
	m.remove(source.KindService, source.Key{Namespace: "default", Name: name})
}

func (m memory) look(*testing.T) view {
	v := view{map[string]*corev1.Service{}, map[string]v1alpha1.IPAllocationSpec{}}
	now := m.snapshot()
	for _, obj := range now[source.KindService] {
		v.services[obj.GetName()] = obj.(*corev1.Service)
	}
	for _, obj := range now[source.KindIPAllocation] {
		spec := obj.(*v1alpha1.IPAllocation).Spec
		v.records[spec.Address] = spec
	}
	return v
}

func TestStaleController(t *testing.T) {
	for _, before := range []string{"creation", "change"} {
		t.Run(before, func(t *testing.T) {
			c := newCluster()
			c.put(pool("192.0.2.0/28"))
			runStale(t, memory{c}, before)
		})
	}
}

// realPlace is a place at a real API server.
type realPlace struct{ realSite }

func (p realPlace) reach(t *testing.T) access {
	t.Helper()
	client, err := kube.New(kube.Options{Kubeconfig: p.Kubeconfig, KubeletConfigs: []string{}, Component: leaseName, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return access{client, client, noEvents{}}
}

func (p realPlace) service(t *testing.T, name, asks string) {
	t.Helper()
	p.Apply(t, pathServices+"/"+name, fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s, annotations: {%s: %s}}, spec: {type: LoadBalancer, loadBalancerClass: patchbay.net/lb, ports: [{port: 80}]}}", name, v1alpha1.AnnotationAddresses, asks))
}

func (p realPlace) end(t *testing.T, name string) {
	t.Helper()
	p.Delete(t, pathServices+"/"+name)
}

func TestStaleControllerReal(t *testing.T) {
	s := newRealSite(t)
	for _, before := range []string{"creation", "change"} {
		t.Run(before, func(t *testing.T) {
			for _, name := range []string{"first", "second", "third"} {
				s.Delete(t, pathServices+"/"+name)
			}
			s.Delete(t, pathAllocations)
			runStale(t, realPlace{s}, before)
		})
	}
}

// TestStaleRemoval: a controller that reads late doesn't remove, or change,
// what another one wrote meanwhile; what it wrote itself it may.
func TestStaleRemoval(t *testing.T) {
	c := newCluster()
	newObjects := func() *recent[*v1alpha1.IPAllocation] { return newRecords(source.NewStore(), c).objects }
	record := func(service string) *v1alpha1.IPAllocation {
		obj := &v1alpha1.IPAllocation{Spec: v1alpha1.IPAllocationSpec{
			Address: "192.0.2.1", Pool: "external", State: v1alpha1.AllocationActive,
			Owners: []v1alpha1.ServiceReference{{Namespace: "default", Name: service}},
		}}
		obj.Name = "192.0.2.1"
		return obj
	}
	key, now := source.Key{Name: "192.0.2.1"}, time.Now()
	late, other := newObjects(), newObjects()
	for _, service := range []string{"a", "b"} {
		if err := late.put(t.Context(), record(service), now); err != nil {
			t.Fatal(err)
		}
	}
	shown := c.snapshot()[source.KindIPAllocation][key]
	other.store.Apply(source.Event{Op: source.Upsert, Kind: source.KindIPAllocation, Key: key, Object: shown})
	if err := other.put(t.Context(), record("c"), now); err != nil {
		t.Fatal(err)
	}
	if err := late.remove(t.Context(), key, now); err == nil {
		t.Error("a stale removal succeeded")
	}
	if err := late.put(t.Context(), record("a"), now); err == nil {
		t.Error("a stale change succeeded")
	}
	if got := c.snapshot()[source.KindIPAllocation][key].(*v1alpha1.IPAllocation).Spec.Owners[0].Name; got != "c" {
		t.Errorf("the record is %s's, want c's", got)
	}
	if err := other.remove(t.Context(), key, now); err != nil {
		t.Error(err)
	}
	if err := other.put(t.Context(), record("a"), now); err != nil {
		t.Errorf("made anew: %v", err)
	}
}
