// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/blocks"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// BlockPool returns a pool of use Pod as blocks are cut out of it. Only a pool
// that assigns by itself has blocks for nodes that don't ask.
func BlockPool(obj *v1alpha1.IPPool, labelsOf func(node string) map[string]string) (blocks.Pool, error) {
	obj = obj.DeepCopy()
	obj.Default()
	spec := &obj.Spec
	pool := blocks.Pool{Name: obj.Name, Priority: spec.Priority, Disabled: spec.Disabled || !*spec.AutoAssign}
	for _, text := range spec.CIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("cidrs: %q is not a prefix", text)
		}
		pool.Ranges = append(pool.Ranges, blocks.Range{Prefix: prefix, Bits: spec.BlockBits(prefix)})
	}
	for _, text := range spec.Exclude {
		prefix, err := addrOrPrefix(text)
		if err != nil {
			return blocks.Pool{}, fmt.Errorf("exclude: %w", err)
		}
		pool.Never = append(pool.Never, ipam.PrefixRange(prefix))
	}
	if spec.NodeSelector != nil {
		pool.Admits = func(node string) bool { return spec.NodeSelector.Matches(labelsOf(node)) }
	}
	return pool, nil
}

// Block returns what an IPBlock says.
func Block(obj *v1alpha1.IPBlock) (blocks.Block, error) {
	prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
	if err != nil {
		return blocks.Block{}, fmt.Errorf("spec.cidr: %q is not a prefix", obj.Spec.CIDR)
	}
	return blocks.Block{Pool: obj.Spec.Pool, Node: obj.Spec.Node, Prefix: prefix}, nil
}

// BlockObject returns a block as the object that keeps it. Its name comes from
// the prefix, so that there can't be two of one.
func BlockObject(b blocks.Block) *v1alpha1.IPBlock {
	name := fmt.Sprintf("%s-%d", b.Prefix.Addr().StringExpanded(), b.Prefix.Bits())
	return &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(name, ":", "-")},
		Spec:       v1alpha1.IPBlockSpec{Pool: b.Pool, Node: b.Node, CIDR: b.Prefix.String(), State: v1alpha1.BlockActive},
	}
}
