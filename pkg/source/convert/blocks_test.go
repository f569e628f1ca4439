// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/blocks"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

func TestBlockPool(t *testing.T) {
	obj := read[v1alpha1.IPPool](t, `
metadata: {name: pods}
spec: {use: Pod, cidrs: [10.244.0.0/16, 10.9.0.0/27], exclude: [10.244.0.0/26], priority: 3, nodeSelector: {matchLabels: {zone: a}}}
`)
	got, err := BlockPool(obj, func(node string) map[string]string { return map[string]string{"zone": node} })
	checkErr(t, err)
	if !got.Admits("a") || got.Admits("b") {
		t.Error("want nodes of zone a admitted, and no others")
	}
	got.Admits = nil
	want := blocks.Pool{
		Name: "pods", Priority: 3, Never: []ipam.Range{ipam.PrefixRange(prefixes("10.244.0.0/26")[0])},
		Ranges: []blocks.Range{{Prefix: prefixes("10.244.0.0/16")[0], Bits: 26}, {Prefix: prefixes("10.9.0.0/27")[0], Bits: 27}},
	}
	if diff := cmp.Diff(want, got, equalAddrs); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	for field, spec := range map[string]string{"cidrs": `{cidrs: [x]}`, "static": `{use: Node, cidrs: [10.0.0.0/8], static: [{name: a, address: x}]}`, "exclude": `{cidrs: [10.0.0.0/8], exclude: [x]}`} {
		_, err := BlockPool(&v1alpha1.IPPool{Spec: *read[v1alpha1.IPPoolSpec](t, spec)}, nil)
		checkErr(t, err, field+`: "x"`)
	}
}

func TestBlockRoundTrip(t *testing.T) {
	for _, prefix := range []string{"10.244.0.64/26", "fd00:244::40/122"} {
		want := blocks.Block{Pool: "pods", Node: "a", Prefix: netip.MustParsePrefix(prefix)}
		obj := BlockObject(want)
		checkErr(t, obj.Validate())
		got, err := Block(obj)
		checkErr(t, err)
		if diff := cmp.Diff(want, got, equalAddrs); diff != "" {
			t.Errorf("block (-want +got):\n%s", diff)
		}
	}
	_, err := Block(&v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{CIDR: "x"}})
	checkErr(t, err, `spec.cidr: "x"`)
}

func TestBlockPoolOfNodes(t *testing.T) {
	obj := read[v1alpha1.IPPool](t, `
metadata: {name: cameras}
spec: {use: Node, cidrs: [192.0.2.0/24], ranges: [{first: 192.0.2.10, last: 192.0.2.19}], gateway: 192.0.2.12, static: [{name: vm, address: 192.0.2.15}]}
`)
	got, err := BlockPool(obj, nil)
	checkErr(t, err)
	if !got.OnRequest || len(got.Ranges) != 0 || got.Size() != 8 {
		t.Errorf("pool %+v of %d addresses, want 8 single ones on request", got, got.Size())
	}
}
