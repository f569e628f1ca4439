// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

func node(name string, podCIDRs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
}

// blocksOf returns a node's blocks.
func (c *cluster) blocksOf(node string) string {
	var list []string
	for _, obj := range c.snapshot()[source.KindIPBlock] {
		if spec := obj.(*v1alpha1.IPBlock).Spec; spec.Node == node {
			list = append(list, spec.CIDR)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestLoopGivesBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		defer start(t, c)()
		pods := &v1alpha1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Name: "pods"},
			Spec:       v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.244.0.0/25"}, Exclude: []string{"10.244.0.0/29"}},
		}
		steps := []struct {
			name string
			do   func()
			want map[string]string
		}{
			{"no pool", func() { c.put(node("a")) }, map[string]string{"a": ""}},
			{"a pool", func() { c.put(pods) }, map[string]string{"a": "10.244.0.0/26"}},
			{"a node with a range of its own", func() { c.put(node("b", "10.244.0.64/27")) }, map[string]string{"a": "10.244.0.0/26", "b": ""}},
			{"one too many", func() { c.put(node("c")) }, map[string]string{"c": ""}},
			{"a node less", func() { c.remove(source.KindNode, source.Key{Name: "b"}) }, map[string]string{"a": "10.244.0.0/26", "c": "10.244.0.64/26"}},
			{"a node less that had a block", func() { c.remove(source.KindNode, source.Key{Name: "a"}); c.put(node("d")) }, map[string]string{"a": "10.244.0.0/26", "c": "10.244.0.64/26", "d": ""}},
			{"it comes back", func() { time.Sleep(4 * time.Minute); c.put(node("a")) }, map[string]string{"a": "10.244.0.0/26", "d": ""}},
			{"it is gone again", func() { c.remove(source.KindNode, source.Key{Name: "a"}); time.Sleep(4 * time.Minute) }, map[string]string{"a": "10.244.0.0/26", "d": ""}},
			{"it is gone for good", func() { time.Sleep(2 * time.Minute) }, map[string]string{"a": "", "c": "10.244.0.64/26", "d": "10.244.0.0/26"}},
		}
		for _, step := range steps {
			step.do()
			time.Sleep(2 * time.Second)
			for name, want := range step.want {
				if got := c.blocksOf(name); got != want {
					t.Errorf("%s: want %s to have %q, got %q", step.name, name, want, got)
				}
			}
		}
		if len(c.said) == 0 || c.said[0] != "c Warning NoBlock: no free block: [pool pods 10.244.0.0/25]" {
			t.Errorf("want an event that names the pool, got %v", c.said)
		}
	})
}
