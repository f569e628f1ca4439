// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// TestEligible: whom kube-proxy's NodeEligible calls eligible gets new traffic.
func TestEligible(t *testing.T) {
	own := func(change func(*corev1.Node)) *corev1.Node {
		n := node("a", "192.168.1.1", "10.244.0.0/24")
		change(n)
		return n
	}
	for _, tt := range []struct {
		name    string
		nodes   []*corev1.Node
		leaving bool
	}{
		{"there", []*corev1.Node{own(func(*corev1.Node) {})}, false},
		{"not there", nil, true},
		{"only another is there", []*corev1.Node{node("b", "192.168.1.2", "10.244.1.0/24")}, true},
		{"being deleted", []*corev1.Node{own(func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} })}, true},
		{"to be deleted", []*corev1.Node{own(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
		})}, true},
		{"otherwise tainted", []*corev1.Node{own(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} })}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Options{Datapath: &fakeDatapath{}})
			r.Config.NodeName = "a"
			for _, n := range tt.nodes {
				r.Apply(source.Event{Op: source.Upsert, Kind: source.KindNode, Key: source.KeyOf(n), Object: n})
			}
			if got := r.Health().Leaving; got != tt.leaving {
				t.Errorf("leaving: got %t, want %t", got, tt.leaving)
			}
		})
	}
}
