// SPDX-License-Identifier: Apache-2.0

package trim

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/source"
)

func ptr[T any](v T) *T { return &v }

// fullSlice is a slice as the API server gives it.
func fullSlice(i int) *discoveryv1.EndpointSlice {
	fields := &metav1.FieldsV1{}
	fields.SetRawBytes(make([]byte, 900))
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("web-%d-x7k2p", i), GenerateName: fmt.Sprintf("web-%d-", i),
			Labels:          map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("web-%d", i), discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: fmt.Sprintf("web-%d", i), UID: "7a4b6c1e-1111-2222-3333-444455556666", Controller: ptr(true)}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", FieldsV1: fields}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}},
	}
	for e := range 10 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.%d.%d", i%256, e)},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)},
			NodeName:   ptr(fmt.Sprintf("node-%d.example.test", e%2)), Zone: ptr("zone-a"),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprintf("web-%d-5d4f8-%d", i, e), UID: "7a4b6c1e-aaaa-bbbb-cccc-ddddeeeeffff"},
		})
	}
	return slice
}

func TestTrimSlice(t *testing.T) {
	got, want := fullSlice(1), fullSlice(1)
	Object(got)
	want.OwnerReferences, want.ManagedFields, want.GenerateName = nil, nil, ""
	for i := range want.Endpoints {
		want.Endpoints[i].TargetRef = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("trimmed slice (-want +got):\n%s", diff)
	}
	if got.Endpoints[0].NodeName != got.Endpoints[2].NodeName || got.Endpoints[0].Conditions.Ready != got.Endpoints[1].Conditions.Serving {
		t.Error("equal names and flags aren't shared")
	}
}

// BenchmarkSliceMemory is what 10,000 slices of 10 endpoints take when they are
// decoded from protobuf, as they come and trimmed.
func BenchmarkSliceMemory(b *testing.B) {
	for name, cut := range map[string]func(source.Object){"as they come": func(source.Object) {}, "trimmed": Object} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				kept := make([]*discoveryv1.EndpointSlice, 10000)
				for i := range kept {
					data, err := fullSlice(i).Marshal()
					if err != nil {
						b.Fatal(err)
					}
					kept[i] = &discoveryv1.EndpointSlice{}
					if err := kept[i].Unmarshal(data); err != nil {
						b.Fatal(err)
					}
					cut(kept[i])
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(kept)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
			}
		})
	}
}
