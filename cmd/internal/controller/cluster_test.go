// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// cluster is a source and writer in memory, as strict as the API server where
// it matters: a status goes to what exists only, spec and status apart. It
// shows changes late, and its writer can be made to die.
type cluster struct {
	source.Writer // for what the controller doesn't do

	mu      sync.Mutex
	objects map[source.Kind]map[source.Key]source.Object
	watches []chan struct{}
	version int
	writes  int // until the writer dies; negative: it never does
	log     []string
	said    []string // events
}

var errDead = errors.New("killed")

func newCluster() *cluster {
	c := &cluster{objects: map[source.Kind]map[source.Key]source.Object{}, writes: -1}
	for _, kind := range kinds() {
		c.objects[kind] = map[source.Key]source.Object{}
	}
	return c
}

func (c *cluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	for _, w := range c.watches {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func kindOf(obj source.Object) source.Kind {
	switch obj.(type) {
	case *corev1.Service:
		return source.KindService
	case *corev1.Node:
		return source.KindNode
	case *corev1.Namespace:
		return source.KindNamespace
	case *v1alpha1.IPPool:
		return source.KindIPPool
	case *v1alpha1.NodeNetworkState:
		return source.KindNodeNetworkState
	case *v1alpha1.IPBlock:
		return source.KindIPBlock
	}
	return source.KindIPAllocation
}

// put is the operator's write: everything but the status.
func (c *cluster) put(obj source.Object) {
	c.change(func() {
		old := c.objects[kindOf(obj)][source.KeyOf(obj)]
		switch old := old.(type) {
		case *corev1.Service:
			obj.(*corev1.Service).Status = old.Status
		case *v1alpha1.IPPool:
			obj.(*v1alpha1.IPPool).Status = old.Status
		}
		c.keep(obj)
	})
}

// keep stores an object as a new version.
func (c *cluster) keep(obj source.Object) {
	c.version++
	obj.SetResourceVersion(strconv.Itoa(c.version))
	c.objects[kindOf(obj)][source.KeyOf(obj)] = obj
}

func (c *cluster) remove(kind source.Kind, key source.Key) {
	c.change(func() { delete(c.objects[kind], key) })
}

// die counts a write, and tells whether the writer is dead by then.
func (c *cluster) die() bool {
	if c.writes == 0 {
		return true
	}
	c.writes--
	return false
}

var errConflict = errors.New("conflict")

// versionOf is the resource version of what there is; empty: nothing.
func (c *cluster) versionOf(obj source.Object) string {
	if old := c.objects[kindOf(obj)][source.KeyOf(obj)]; old != nil {
		return old.GetResourceVersion()
	}
	return ""
}

func (c *cluster) PutVersion(_ context.Context, obj source.Object) (err error) {
	c.change(func() {
		if c.die() {
			err = errDead
			return
		}
		if err = source.Check(obj.DeepCopyObject().(source.Object), nil); err != nil {
			return
		}
		if obj.GetResourceVersion() != c.versionOf(obj) {
			err = errConflict
			return
		}
		c.log = append(c.log, "put "+obj.GetName())
		next := obj.DeepCopyObject().(source.Object)
		if old, ok := c.objects[kindOf(obj)][source.KeyOf(obj)].(*v1alpha1.IPAllocation); ok {
			next.(*v1alpha1.IPAllocation).Status = old.Status
		}
		c.keep(next)
		obj.SetResourceVersion(next.GetResourceVersion())
	})
	return err
}

func (c *cluster) UpdateStatus(_ context.Context, obj source.Object) (err error) {
	c.change(func() {
		if c.die() {
			err = errDead
			return
		}
		have, ok := c.objects[kindOf(obj)][source.KeyOf(obj)]
		if !ok {
			err = source.ErrNotFound
			return
		}
		c.log = append(c.log, fmt.Sprintf("status %s %s", kindOf(obj), obj.GetName()))
		next := have.DeepCopyObject().(source.Object)
		switch o := obj.(type) {
		case *corev1.Service:
			next.(*corev1.Service).Status = *o.Status.DeepCopy()
		case *v1alpha1.IPPool:
			next.(*v1alpha1.IPPool).Status = *o.Status.DeepCopy()
		case *v1alpha1.IPAllocation:
			next.(*v1alpha1.IPAllocation).Status = *o.Status.DeepCopy()
		}
		c.keep(next)
	})
	return err
}

func (c *cluster) DeleteVersion(_ context.Context, obj source.Object) (err error) {
	c.change(func() {
		if c.die() {
			err = errDead
			return
		}
		if version := c.versionOf(obj); version != "" && version != obj.GetResourceVersion() {
			err = errConflict
			return
		}
		c.log = append(c.log, "delete "+obj.GetName())
		delete(c.objects[kindOf(obj)], source.KeyOf(obj))
	})
	return err
}

func (c *cluster) snapshot() map[source.Kind]map[source.Key]source.Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[source.Kind]map[source.Key]source.Object{}
	for kind, objects := range c.objects {
		out[kind] = maps.Clone(objects)
	}
	return out
}

func (c *cluster) Run(ctx context.Context, kinds []source.Kind, emit func(source.Event)) error {
	changed := make(chan struct{}, 1)
	c.mu.Lock()
	c.watches = append(c.watches, changed)
	c.mu.Unlock()
	shown := map[source.Kind]map[source.Key]source.Object{}
	for first := true; ; first = false {
		now := c.snapshot()
		for _, kind := range kinds {
			for key, obj := range now[kind] {
				if shown[kind][key] != obj {
					emit(source.Event{Op: source.Upsert, Kind: kind, Key: key, Object: obj})
				}
			}
			for key := range shown[kind] {
				if now[kind][key] == nil {
					emit(source.Event{Op: source.Delete, Kind: kind, Key: key})
				}
			}
		}
		for _, kind := range kinds {
			if first {
				emit(source.Event{Op: source.Synced, Kind: kind})
			}
		}
		shown = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *cluster) Event(obj source.Object, eventType, reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, fmt.Sprintf("%s %s %s: %s", obj.GetName(), eventType, reason, message))
}

// logged returns the writes so far, those of pools left out, and forgets them.
func (c *cluster) logged() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	log := slices.DeleteFunc(c.log, func(line string) bool { return strings.HasPrefix(line, "status IPPool") })
	c.log = nil
	return log
}

func (c *cluster) service(name string) *corev1.Service {
	svc, _ := c.snapshot()[source.KindService][source.Key{Namespace: "default", Name: name}].(*corev1.Service)
	return svc
}

// addrs returns the addresses in a Service's status.
func (c *cluster) addrs(name string) string {
	var list []string
	if svc := c.service(name); svc != nil {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			list = append(list, in.IP)
		}
	}
	return strings.Join(list, " ")
}

// check requires that statuses and records agree, and that no address is given
// twice.
func (c *cluster) check(t *testing.T) {
	t.Helper()
	now := c.snapshot()
	owners := map[string]v1alpha1.IPAllocationSpec{}
	for _, obj := range now[source.KindIPAllocation] {
		spec := obj.(*v1alpha1.IPAllocation).Spec
		owners[spec.Address] = spec
	}
	seen := map[string]string{}
	for _, obj := range now[source.KindService] {
		for _, in := range obj.(*corev1.Service).Status.LoadBalancer.Ingress {
			spec := owners[in.IP]
			if spec.State != v1alpha1.AllocationActive || !slices.Contains(spec.Owners, v1alpha1.ServiceReference{Namespace: "default", Name: obj.GetName()}) {
				t.Fatalf("status of %s names %s, of which the record is %+v", obj.GetName(), in.IP, spec)
			}
			if other, ok := seen[in.IP]; ok {
				t.Fatalf("%s and %s both have %s", obj.GetName(), other, in.IP)
			}
			seen[in.IP] = obj.GetName()
		}
	}
}

// lb is a LoadBalancer Service.
func lb(name string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	for _, f := range change {
		f(svc)
	}
	return svc
}

func asking(addr string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Annotations = map[string]string{v1alpha1.AnnotationAddresses: addr}
	}
}

func pool(cidr string) *v1alpha1.IPPool {
	return &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "external"},
		Spec:       v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, CIDRs: []string{cidr}},
	}
}
