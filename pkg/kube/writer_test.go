// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

// recordOf is a record of an address that the Service has, or had.
func recordOf(service string, state v1alpha1.AllocationState) *v1alpha1.IPAllocation {
	return &v1alpha1.IPAllocation{ObjectMeta: metav1.ObjectMeta{Name: "203.0.113.10"}, Spec: v1alpha1.IPAllocationSpec{
		Address: "203.0.113.10", Pool: "external", State: state, SharingKey: "key of " + service,
		Owners: []v1alpha1.ServiceReference{{Namespace: "default", Name: service}},
	}}
}

func TestVersions(t *testing.T) {
	s := newAPIServer(t)
	testVersions(t, s.client(t))
}

func TestVersionsReal(t *testing.T) { testVersions(t, startReal(t).client) }

// testVersions: of two that write from one version, one succeeds; the source
// shows the version that the next write needs.
func testVersions(t *testing.T, c *Client) {
	r := sourcetest.Record(t, c, source.KindIPAllocation)
	from := r.WaitSynced(t, source.KindIPAllocation)
	shown := func(want *v1alpha1.IPAllocation) *v1alpha1.IPAllocation {
		t.Helper()
		var ev source.Event
		ev, from = r.WaitFor(t, from, source.Upsert, source.KindIPAllocation, source.KeyOf(want))
		got := ev.Object.(*v1alpha1.IPAllocation)
		if diff := cmp.Diff(want.Spec, got.Spec); diff != "" || want.ResourceVersion != "" && got.ResourceVersion != want.ResourceVersion {
			t.Fatalf("version %q, want %q; spec (-want +got):\n%s", got.ResourceVersion, want.ResourceVersion, diff)
		}
		return got.DeepCopy()
	}
	ours := recordOf("first", v1alpha1.AllocationActive)
	if err := c.PutVersion(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	old := shown(ours)
	if err := c.PutVersion(t.Context(), recordOf("late", v1alpha1.AllocationActive)); !apierrors.IsAlreadyExists(err) {
		t.Errorf("one made where another is: %v, want that it is there", err)
	}

	ours.Spec = v1alpha1.IPAllocationSpec{Address: "203.0.113.10", Pool: "external", State: v1alpha1.AllocationCooling}
	if err := c.PutVersion(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	shown(ours)
	late := recordOf("late", v1alpha1.AllocationActive)
	late.ResourceVersion = old.ResourceVersion
	if err := c.PutVersion(t.Context(), late); !apierrors.IsConflict(err) {
		t.Errorf("a change of an older version: %v, want a conflict", err)
	}
	if err := c.DeleteVersion(t.Context(), old); !apierrors.IsConflict(err) {
		t.Errorf("the end of an older version: %v, want a conflict", err)
	}

	// What nobody reads changes the version, too.
	const foreign = `{"metadata":{"managedFields":[{}]}}`
	if err := c.Patch(t.Context(), source.KindIPAllocation, source.KeyOf(ours), []byte(foreign)); err != nil {
		t.Fatal(err)
	}
	untouched := ours.DeepCopy()
	untouched.ResourceVersion = ""
	now := shown(untouched)
	if err := c.DeleteVersion(t.Context(), ours); !apierrors.IsConflict(err) {
		t.Errorf("the end of the version before: %v, want a conflict", err)
	}
	for range 2 {
		if err := c.DeleteVersion(t.Context(), now); err != nil {
			t.Error(err)
		}
	}
	if err := c.PutVersion(t.Context(), now); err == nil || !strings.Contains(err.Error(), now.Name) {
		t.Errorf("a change of what is gone: %v, want an error that names it", err)
	}
}
