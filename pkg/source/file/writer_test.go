// SPDX-License-Identifier: Apache-2.0

package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

func allocation(addr string) *v1alpha1.IPAllocation {
	return &v1alpha1.IPAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: addr, ResourceVersion: "7"},
		Spec:       v1alpha1.IPAllocationSpec{Address: addr, Pool: "external", State: v1alpha1.AllocationConflicted},
	}
}

func TestWriterFiles(t *testing.T) {
	b := newBackend(t)
	b.write(t, "web.yaml", serviceYAML("web", 80))
	if err := b.writer.Apply(t.Context(), allocation("203.0.113.10")); err != nil {
		t.Fatal(err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.10"}}
	if err := b.writer.UpdateStatus(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ipallocation_203.0.113.10.yaml": "apiVersion: patchbay.net/v1alpha1\nkind: IPAllocation\n",
		"service_shop_web_status.yaml":   "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nstatus:\n  loadBalancer:\n    ingress:\n    - ip: 203.0.113.10\n",
	} {
		data, err := os.ReadFile(filepath.Join(b.opts.StatusDir, name))
		if err != nil || !strings.HasPrefix(string(data), want) {
			t.Errorf("%s = %q, %v; want it to begin with %q", name, data, err, want)
		}
	}
	if entries, err := os.ReadDir(b.opts.StatusDir); err != nil || len(entries) != 2 {
		t.Errorf("status folder has %v (%v), want 2 files", entries, err)
	}
	if entries, err := os.ReadDir(b.opts.Dir); err != nil || len(entries) != 1 {
		t.Errorf("objects folder has %v (%v), want only the operator's file", entries, err)
	}
}

func TestWriterLeavesTheOperatorsObjects(t *testing.T) {
	b := newBackend(t)
	b.write(t, "p.yaml", poolYAML("p", "10.0.1.0/24"))
	err := b.writer.Apply(t.Context(), &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	if err == nil || !strings.Contains(err.Error(), "p.yaml") {
		t.Errorf("error = %v, want one that names the file", err)
	}
}

func TestWriterRefusesWhatItCannotName(t *testing.T) {
	b := newBackend(t)
	for _, obj := range []source.Object{&v1alpha1.IPPool{}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}} {
		if err := b.writer.Apply(t.Context(), obj); err == nil {
			t.Errorf("%T without a name or a kind is written", obj)
		}
	}
}

func TestWriterOutlivesItself(t *testing.T) {
	b := newBackend(t)
	if err := b.writer.Apply(t.Context(), allocation("203.0.113.10")); err != nil {
		t.Fatal(err)
	}
	again, err := NewWriter(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.UpdateStatus(t.Context(), allocation("203.0.113.10")); err != nil {
		t.Errorf("status of an object that an earlier writer applied: %v", err)
	}
}
