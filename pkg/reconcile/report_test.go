// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// fakeWriter keeps the last status of each object.
type fakeWriter struct {
	mu      sync.Mutex
	applied bool
	states  []*v1alpha1.NodeNetworkState
}

func (w *fakeWriter) Apply(context.Context, source.Object) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = true
	return nil
}

func (w *fakeWriter) UpdateStatus(_ context.Context, obj source.Object) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.applied {
		return source.ErrNotFound
	}
	w.states = append(w.states, obj.(*v1alpha1.NodeNetworkState))
	return nil
}

func (w *fakeWriter) Delete(context.Context, source.Kind, source.Key) error { return nil }

func TestReport(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.close()
		pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.244.7.0/26")})
		if err != nil {
			t.Fatal(err)
		}
		request := store.Request{Lease: store.Lease{Key: store.Key{ContainerID: "c", IfName: "eth0"}}, Pools: []ipam.Pool{pool}}
		if _, err := store.New(l.cfg.Paths.Leases(), store.Options{}).Allocate(request); err != nil {
			t.Fatal(err)
		}
		writer := &fakeWriter{}
		l.writer = writer
		l.start(t)
		defer func() { l.close() }()
		l.fill()
		block := &v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: v1alpha1.IPBlockSpec{Pool: "pods", Node: "a", CIDR: "10.244.7.0/26"}}
		l.upsert(source.KindIPBlock, block)
		l.upsert(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v1alpha1.IPPoolSpec{
			Use: v1alpha1.UsePod, CIDRs: []string{"10.244.7.0/24"}, Exclude: []string{"10.244.7.9", "10.244.7.32/28"}, Gateway: "10.244.7.254"}})
		l.synced()
		netlab.WaitFor(t, 10*time.Second, "report", func() error {
			writer.mu.Lock()
			defer writer.mu.Unlock()
			if len(writer.states) == 0 {
				return source.ErrNotFound
			}
			return nil
		})
		writer.mu.Lock()
		defer writer.mu.Unlock()
		state := writer.states[0].Status
		if len(state.NICs) != 1 || state.NICs[0].Role != "internal+external" || state.NICs[0].Addresses[0] != "192.168.1.1/24" {
			t.Errorf("NICs %+v, want eth0 with its role and address", state.NICs)
		}
		if b := state.Blocks; len(b) != 1 || b[0].Pool != "pods" || b[0].Used != 1 || b[0].Free != int64(pool.Size())-17-1 {
			t.Errorf("blocks %+v, want one address used, %d free", b, pool.Size()-17-1)
		}
		if c := state.Conditions; len(c) != 1 || c[0].Status != metav1.ConditionTrue {
			t.Errorf("conditions %+v, want Ready", c)
		}
	})
}
