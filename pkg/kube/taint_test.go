// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTaint(t *testing.T) {
	s := newAPIServer(t)
	c := s.client(t)
	other := corev1.Taint{Key: "theirs", Effect: corev1.TaintEffectNoExecute}
	ours := corev1.Taint{Key: "ours", Effect: corev1.TaintEffectNoSchedule}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{other}}}
	if err := c.Apply(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{true, true, false, false} {
		if err := c.Taint(t.Context(), "a", ours, on); err != nil {
			t.Fatal(err)
		}
		got := &corev1.Node{}
		if err := c.clients[corev1.SchemeGroupVersion].Get().Resource("nodes").Name("a").Do(t.Context()).Into(got); err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{true: 2, false: 1}[on]
		if len(got.Spec.Taints) != want || got.Spec.Taints[0] != other {
			t.Errorf("on=%t: taints %v, want the other one first and ours as told", on, got.Spec.Taints)
		}
	}
	if err := c.Taint(t.Context(), "b", ours, true); err != nil {
		t.Errorf("taint of a node that is gone: %v", err)
	}
}
