// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// TestSelectorMatches compares with Kubernetes' own selectors, over all that
// can be made of few keys and values.
func TestSelectorMatches(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	keys, values := []string{"app", "tier"}, []string{"", "web", "db"}
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	for range 5000 {
		s := &v1alpha1.Selector{}
		theirs := &metav1.LabelSelector{}
		if rng.IntN(2) == 0 {
			key, value := pick(keys), pick(values)
			s.MatchLabels = map[string]v1alpha1.LabelValue{key: v1alpha1.LabelValue(value)}
			theirs.MatchLabels = map[string]string{key: value}
		}
		for range rng.IntN(3) {
			r := v1alpha1.SelectorRequirement{Key: pick(keys), Operator: v1alpha1.SelectorOperator(pick([]string{"In", "NotIn", "Exists", "DoesNotExist"}))}
			their := metav1.LabelSelectorRequirement{Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator)}
			if r.Operator == v1alpha1.SelectIn || r.Operator == v1alpha1.SelectNotIn {
				their.Values = []string{pick(values), pick(values)}
				r.Values = []v1alpha1.LabelValue{v1alpha1.LabelValue(their.Values[0]), v1alpha1.LabelValue(their.Values[1])}
			}
			s.MatchExpressions = append(s.MatchExpressions, r)
			theirs.MatchExpressions = append(theirs.MatchExpressions, their)
		}
		set := labels.Set{}
		for range rng.IntN(3) {
			set[pick(keys)] = pick(values)
		}
		oracle, err := metav1.LabelSelectorAsSelector(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.Matches(set), oracle.Matches(set); got != want {
			t.Fatalf("%+v on %v: %v, want %v", s, set, got, want)
		}
	}
	if none := (*v1alpha1.Selector)(nil); !none.Matches(nil) {
		t.Error("no selector doesn't select everything")
	}
}

func TestAllocationName(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"203.0.113.10", "203.0.113.10"},
		{"::ffff:203.0.113.10", "203.0.113.10"},
		{"2001:db8::", "2001-0db8-0000-0000-0000-0000-0000-0000"},
		{"fd00::1%eth0", "fd00-0000-0000-0000-0000-0000-0000-0001"},
	} {
		if got := v1alpha1.AllocationName(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("AllocationName(%s) = %q, want %q", tt.addr, got, tt.want)
		}
	}
}

func TestBlockBits(t *testing.T) {
	size := int32(24)
	for _, tt := range []struct {
		cidr string
		size *int32
		want int
	}{
		{"10.244.0.0/16", nil, 26},
		{"10.244.0.0/28", nil, 28},
		{"fd00::/56", nil, 122},
		{"10.244.0.0/16", &size, 24},
	} {
		spec := v1alpha1.IPPoolSpec{BlockSize: tt.size}
		if got := spec.BlockBits(netip.MustParsePrefix(tt.cidr)); got != tt.want {
			t.Errorf("BlockBits(%s) = %d, want %d", tt.cidr, got, tt.want)
		}
	}
}
