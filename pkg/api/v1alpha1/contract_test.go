// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/deploy/crds"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// object is what all our kinds are to this test.
type object interface {
	runtime.Object
	metav1.Object
	Default()
	Validate() error
}

func newObject(t *testing.T, kind string) object {
	t.Helper()
	switch kind {
	case "IPPool":
		return &v1alpha1.IPPool{}
	case "IPBlock":
		return &v1alpha1.IPBlock{}
	case "IPAllocation":
		return &v1alpha1.IPAllocation{}
	case "VirtualSwitch":
		return &v1alpha1.VirtualSwitch{}
	case "NodeRoute":
		return &v1alpha1.NodeRoute{}
	case "NodePolicy":
		return &v1alpha1.NodePolicy{}
	case "BGPPeer":
		return &v1alpha1.BGPPeer{}
	case "NodeNetworkState":
		return &v1alpha1.NodeNetworkState{}
	}
	t.Fatalf("kind %s: unknown to this test", kind)
	return nil
}

// server does with an object what the API server does with a CRD's.
type server struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// servers reads all CRDs, has them validated as the API server does when they
// are created (cost of the rules included), and returns a server per kind.
func servers(t *testing.T) map[string]server {
	t.Helper()
	files, err := crds.Files()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]server{}
	for name, data := range files {
		crd := readCRD(t, name, data)
		if errs := crdvalidation.ValidateCustomResourceDefinition(t.Context(), crd); len(errs) > 0 {
			t.Fatalf("%s: %v", name, errs.ToAggregate())
		}
		out[crd.Spec.Names.Kind] = newServer(t, crd)
	}
	return out
}

func readCRD(t *testing.T, name string, data []byte) *apiextensions.CustomResourceDefinition {
	t.Helper()
	var v1 apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &v1); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(&v1)
	v1.Status.StoredVersions = []string{"v1alpha1"}
	var crd apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&v1, &crd, nil); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return &crd
}

func newServer(t *testing.T, crd *apiextensions.CustomResourceDefinition) server {
	t.Helper()
	props := crd.Spec.Validation
	if props == nil {
		props = crd.Spec.Versions[0].Schema
	}
	structural, err := structuralschema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	schema, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return server{structural, schema, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
}

// admit returns the object with defaults, and what is wrong with it.
func (s server) admit(ctx context.Context, obj, old map[string]any) error {
	unknown := pruning.PruneWithOptions(runtime.DeepCopyJSON(obj), s.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		return errors.New("unknown fields " + strings.Join(unknown, ", "))
	}
	defaulting.Default(obj, s.structural)
	errs := validation.ValidateCustomResource(nil, obj, s.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, obj)...)
	if hasBlockingErr(errs) {
		return errs.ToAggregate()
	}
	var oldObj any
	if old != nil {
		oldObj = old
	}
	celErrs, _ := s.rules.Validate(ctx, nil, s.structural, obj, oldObj, celconfig.RuntimeCELCostBudget)
	return append(errs, celErrs...).ToAggregate()
}

// hasBlockingErr tells, as the API server does, whether the rules can be asked
// at all.
func hasBlockingErr(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid, field.ErrorTypeDuplicate:
			return true
		}
	}
	return false
}

// manifest makes the YAML of an object out of that of its spec.
func manifest(kind, spec string) string {
	head := "apiVersion: patchbay.net/v1alpha1\nkind: " + kind + "\nmetadata: {name: x}\n"
	if strings.HasPrefix(spec, "status:") {
		return head + spec
	}
	return head + "spec:\n  " + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ")
}

func untyped(t *testing.T, text string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var out map[string]any
	if err := utiljson.Unmarshal(data, &out); err != nil { // whole numbers stay whole
		t.Fatal(err)
	}
	return out
}

// TestRulesAgree runs every object through Go and through the CRD: both must
// take it, or both refuse it, and take it with the same defaults.
func TestRulesAgree(t *testing.T) {
	crds := servers(t)
	for _, tt := range ruleCases() {
		t.Run(tt.kind+"/"+tt.name, func(t *testing.T) {
			text := manifest(tt.kind, tt.spec)
			typed := newObject(t, tt.kind)
			goErr := yaml.UnmarshalStrict([]byte(text), typed)
			if goErr == nil {
				typed.Default()
				goErr = typed.Validate()
			}
			raw := untyped(t, text)
			crdErr := crds[tt.kind].admit(t.Context(), raw, nil)
			if (goErr == nil) != (tt.wrong == "") || (crdErr == nil) != (tt.wrong == "") {
				t.Fatalf("wrong field %q, but\nGo says  %v\nCRD says %v", tt.wrong, goErr, crdErr)
			}
			if tt.wrong != "" {
				if !strings.Contains(goErr.Error(), tt.wrong) {
					t.Errorf("Go's error doesn't name %s: %v", tt.wrong, goErr)
				}
				if !strings.Contains(goErr.Error(), "unknown field") && !strings.Contains(goErr.Error(), tt.kind+" x: ") && !strings.Contains(goErr.Error(), "unmarshal") {
					t.Errorf("Go's error doesn't name the object: %v", goErr)
				}
				return
			}
			again := newObject(t, tt.kind)
			data, err := json.Marshal(raw)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(again, typed); diff != "" {
				t.Errorf("defaults differ (-CRD +Go):\n%s", diff)
			}
		})
	}
}

// TestUpdatesAgree does the same for what may not be changed.
func TestUpdatesAgree(t *testing.T) {
	crds := servers(t)
	for _, tt := range updateCases() {
		t.Run(tt.kind+"/"+tt.name, func(t *testing.T) {
			before, after := manifest(tt.kind, tt.before), manifest(tt.kind, tt.after)
			goErr := validateUpdate(t, tt.kind, before, after)
			old := untyped(t, before)
			if err := crds[tt.kind].admit(t.Context(), old, nil); err != nil {
				t.Fatal(err)
			}
			crdErr := crds[tt.kind].admit(t.Context(), untyped(t, after), old)
			if (goErr == nil) != (tt.wrong == "") || (crdErr == nil) != (tt.wrong == "") {
				t.Fatalf("wrong field %q, but\nGo says  %v\nCRD says %v", tt.wrong, goErr, crdErr)
			}
			if tt.wrong != "" && !strings.Contains(goErr.Error(), tt.wrong) {
				t.Errorf("Go's error doesn't name %s: %v", tt.wrong, goErr)
			}
		})
	}
}

func validateUpdate(t *testing.T, kind, before, after string) error {
	t.Helper()
	old, obj := newObject(t, kind), newObject(t, kind)
	for text, into := range map[string]object{before: old, after: obj} {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	updatable, ok := obj.(interface {
		ValidateUpdate(old runtime.Object) error
	})
	if !ok {
		t.Fatalf("%s has no ValidateUpdate", kind)
	}
	return updatable.ValidateUpdate(old)
}

// TestRangeOrderAgrees tries the CRD's way of comparing addresses, for which
// CEL has no operator, on pairs that differ in any bit.
func TestRangeOrderAgrees(t *testing.T) {
	crd := servers(t)["IPPool"]
	rng := rand.New(rand.NewPCG(7, 7))
	for _, base := range []string{"10.0.0.0", "192.168.77.255", "fd00:1:2:3:4:5:6:7", "2001:db8::"} {
		addr := netip.MustParseAddr(base)
		for bit := 4; bit < addr.BitLen(); bit++ {
			a, b := randomBelow(rng, addr, bit), randomBelow(rng, addr, bit)
			text := manifest("IPPool", fmt.Sprintf("use: Node\nranges: [{first: '%s', last: '%s'}]", a, b))
			err := crd.admit(t.Context(), untyped(t, text), nil)
			if (err == nil) != (a.Compare(b) <= 0) {
				t.Errorf("range %s to %s: %v", a, b, err)
			}
		}
	}
}

// randomBelow returns addr with all bits from bit on at random.
func randomBelow(rng *rand.Rand, addr netip.Addr, bit int) netip.Addr {
	bytes := addr.AsSlice()
	for i := bit; i < addr.BitLen(); i++ {
		mask := byte(0x80) >> (i % 8)
		bytes[i/8] &^= mask
		if rng.IntN(2) == 1 {
			bytes[i/8] |= mask
		}
	}
	out, _ := netip.AddrFromSlice(bytes)
	return out
}

func TestEveryKindHasItsDefinition(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	have := servers(t)
	for kind := range scheme.KnownTypes(v1alpha1.GroupVersion()) {
		if _, ok := have[strings.TrimSuffix(kind, "List")]; !ok && scheme.Recognizes(v1alpha1.GroupVersion().WithKind(kind+"List")) {
			t.Errorf("kind %s has no CRD", kind)
		}
	}
	if len(have) != 8 {
		t.Errorf("%d CRDs, want 8", len(have))
	}
}
