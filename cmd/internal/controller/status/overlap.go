// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// overlaps returns which pools have addresses in common with another, by name:
// two users could be given one of them. Pools that can't be read have none.
func overlaps(pools []*v1alpha1.IPPool) map[string]error {
	type span struct {
		ipam.Range
		pool string
	}
	var spans []span
	for _, pool := range pools {
		ranges, err := convert.PoolRanges(pool)
		if err != nil {
			continue
		}
		for _, r := range ranges {
			spans = append(spans, span{r, pool.Name})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.pool, b.pool)) })
	found := map[string]error{}
	for i, a := range spans {
		for _, b := range spans[i+1:] {
			if !a.Overlaps(b.Range) {
				break // sorted: no later one does
			}
			if a.pool != b.pool {
				found[a.pool] = errors.Join(found[a.pool], fmt.Errorf("%s overlaps %s of IPPool %s", a, b, b.pool))
				found[b.pool] = errors.Join(found[b.pool], fmt.Errorf("%s overlaps %s of IPPool %s", b, a, a.pool))
			}
		}
	}
	return found
}
