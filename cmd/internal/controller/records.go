// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// records are the durable records of LoadBalancer addresses.
type records struct {
	objects *recent[*v1alpha1.IPAllocation]
}

func newRecords(store *source.Store, writer recordWriter) records {
	return records{newRecent(store, writer, source.KindIPAllocation, func(a, b *v1alpha1.IPAllocation) bool {
		return equality.Semantic.DeepEqual(a.Spec, b.Spec)
	})}
}

// list returns all records. Those that can't be read are in the error.
func (r records) list(now time.Time) ([]loadbalancer.Record, error) {
	objects := r.objects.list(now)
	list := make([]loadbalancer.Record, 0, len(objects))
	var errs []error
	for _, obj := range objects {
		record, err := convert.Record(obj)
		if err != nil {
			errs = append(errs, fmt.Errorf("IPAllocation %s: %w", obj.Name, err))
			continue
		}
		list = append(list, record)
	}
	return list, errors.Join(errs...)
}

func (r records) put(ctx context.Context, record loadbalancer.Record, now time.Time) error {
	return r.objects.put(ctx, convert.Allocation(record), now)
}

func (r records) remove(ctx context.Context, record loadbalancer.Record, now time.Time) error {
	return r.objects.remove(ctx, source.KeyOf(convert.Allocation(record)), now)
}
