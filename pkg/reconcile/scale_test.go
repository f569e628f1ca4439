// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// many gives a reconciler services with ten endpoints each.
func many(r *Reconciler, services int) {
	for i := range services {
		svc, slice := web("")
		svc.Name, svc.Status = fmt.Sprint("web", i), corev1.ServiceStatus{}
		svc.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		slice.Name, slice.Labels = svc.Name+"-1", map[string]string{discoveryv1.LabelServiceName: svc.Name}
		endpoint := slice.Endpoints[0]
		slice.Endpoints = nil
		for e := range 10 {
			endpoint.Addresses = []string{fmt.Sprintf("10.244.%d.%d", (i+e)%250, i%250+1)}
			slice.Endpoints = append(slice.Endpoints, endpoint)
		}
		for kind, obj := range map[source.Kind]source.Object{source.KindService: svc, source.KindEndpointSlice: slice} {
			r.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
		}
	}
}

// BenchmarkServices is one endpoint's change among 10,000 Services, up to the datapath.
func BenchmarkServices(b *testing.B) {
	cfg, err := config.Parse([]byte("nodeName: a\npaths: {state: " + b.TempDir() + "}\n"))
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	r := New(Options{Config: cfg, Datapath: &fakeDatapath{}, Log: log})
	n := node("a", "192.168.1.1", "10.244.0.0/24")
	r.Apply(source.Event{Op: source.Upsert, Kind: source.KindNode, Key: source.KeyOf(n), Object: n})
	many(r, 10_000)
	_, slice := web("")
	slice.Name, slice.Labels = "web7-1", map[string]string{discoveryv1.LabelServiceName: "web7"}
	for b.Loop() {
		slice = slice.DeepCopy()
		slice.ObjectMeta = metav1.ObjectMeta{Namespace: "d", Name: "web7-1", Labels: slice.Labels, Generation: slice.Generation + 1}
		r.Apply(source.Event{Op: source.Upsert, Kind: source.KindEndpointSlice, Key: source.KeyOf(slice), Object: slice})
		if err := r.syncServices(); err != nil {
			b.Fatal(err)
		}
	}
}
