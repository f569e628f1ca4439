// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// tainted is a cluster whose nodes can be tainted.
type tainted struct {
	*cluster
	mu     sync.Mutex
	taints []string
}

func (c *tainted) Taint(_ context.Context, name string, taint corev1.Taint, on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := "-"
	n := node(name)
	if on {
		op = "+"
		n.Spec.Taints = []corev1.Taint{taint}
	}
	c.taints = append(c.taints, op+name)
	c.put(n)
	return nil
}

// report is what a node says of one block.
func report(name, cidr string, used, free int64) *v1alpha1.NodeNetworkState {
	return &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeNetworkStateStatus{
		Blocks: []v1alpha1.NodeBlockState{{CIDR: cidr, Pool: "pods", Used: used, Free: free}}}}
}

func TestLoopGrowsBlocksAndTaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tainted{cluster: newCluster()}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- newLoop(access{c, c, c}, ourClass(), time.Now, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		defer func() { cancel(); <-done }()
		c.put(&v1alpha1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Name: "pods"},
			Spec:       v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.244.0.0/25"}},
		})
		c.put(node("a"))
		steps := []struct {
			name   string
			do     func()
			blocks string
			taints string
		}{
			{"one block at first", func() {}, "10.244.0.0/26", ""},
			{"another before it runs out", func() { c.put(report("a", "10.244.0.0/26", 48, 14)) }, "10.244.0.0/26 10.244.0.64/26", ""},
			{"no more to be had, and nearly none left", func() {
				state := report("a", "10.244.0.0/26", 62, 0)
				state.Status.Blocks = append(state.Status.Blocks, v1alpha1.NodeBlockState{CIDR: "10.244.0.64/26", Used: 58, Free: 4})
				c.put(state)
			}, "10.244.0.0/26 10.244.0.64/26", "+a"},
			{"some left again", func() {
				state := report("a", "10.244.0.0/26", 32, 30)
				state.Status.Blocks = append(state.Status.Blocks, v1alpha1.NodeBlockState{CIDR: "10.244.0.64/26", Used: 58, Free: 4})
				c.put(state)
			}, "10.244.0.0/26 10.244.0.64/26", "+a -a"},
		}
		for _, step := range steps {
			step.do()
			time.Sleep(2 * time.Second)
			if got := c.blocksOf("a"); got != step.blocks {
				t.Errorf("%s: want blocks %q, got %q", step.name, step.blocks, got)
			}
			if got := strings.Join(c.taints, " "); got != step.taints {
				t.Errorf("%s: want taints %q, got %q", step.name, step.taints, got)
			}
		}
		if said := strings.Join(c.said, "\n"); !strings.Contains(said, "a Warning NoBlock: no free block: [pool pods 10.244.0.0/25]") {
			t.Errorf("want an event that says so, got %v", said)
		}
		for _, obj := range c.snapshot()[source.KindIPPool] {
			if st := obj.(*v1alpha1.IPPool).Status; st.Total != 128 || st.Used != 90 || st.Free != 38 {
				t.Errorf("pool's status %+v, want 90 of 128 used", st)
			}
		}
	})
}
