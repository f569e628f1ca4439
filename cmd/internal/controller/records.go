// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// trustOwn is how long our own write counts before what the source says, if
// the source doesn't show it by then.
const trustOwn = time.Minute

// records are the durable records as the source shows them, but for those that
// we wrote and it doesn't show yet: an address must not look free, nor a freed
// one given, because the stream lags behind our own writes.
type records struct {
	store  *source.Store
	writer source.Writer
	own    map[source.Key]ownWrite
}

type ownWrite struct {
	obj *v1alpha1.IPAllocation // nil: deleted
	at  time.Time
}

func newRecords(store *source.Store, writer source.Writer) *records {
	return &records{store: store, writer: writer, own: map[source.Key]ownWrite{}}
}

// list returns all records. Those that can't be read are in the error; an
// address of such a one is unknown, so no other can be told from it.
func (r *records) list(now time.Time) ([]loadbalancer.Record, error) {
	r.settle(now)
	var objects []*v1alpha1.IPAllocation
	for obj := range source.All[*v1alpha1.IPAllocation](r.store, source.KindIPAllocation) {
		if _, ok := r.own[source.KeyOf(obj)]; !ok {
			objects = append(objects, obj)
		}
	}
	for _, w := range r.own {
		if w.obj != nil {
			objects = append(objects, w.obj)
		}
	}
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
	slices.SortFunc(list, func(a, b loadbalancer.Record) int { return a.Addr.Compare(b.Addr) })
	return list, errors.Join(errs...)
}

// settle forgets own writes that the source shows by now.
func (r *records) settle(now time.Time) {
	for key, w := range r.own {
		shown, ok := source.Get[*v1alpha1.IPAllocation](r.store, source.KindIPAllocation, key)
		same := !ok && w.obj == nil || ok && w.obj != nil && equality.Semantic.DeepEqual(shown.Spec, w.obj.Spec)
		if same || now.Sub(w.at) > trustOwn {
			delete(r.own, key)
		}
	}
}

// put makes a record durable.
func (r *records) put(ctx context.Context, record loadbalancer.Record, now time.Time) error {
	obj := convert.Allocation(record)
	if err := r.writer.Apply(ctx, obj); err != nil {
		return fmt.Errorf("write IPAllocation %s: %w", obj.Name, err)
	}
	r.own[source.KeyOf(obj)] = ownWrite{obj, now}
	return nil
}

// remove deletes a record.
func (r *records) remove(ctx context.Context, record loadbalancer.Record, now time.Time) error {
	key := source.KeyOf(convert.Allocation(record))
	if err := r.writer.Delete(ctx, source.KindIPAllocation, key); err != nil {
		return fmt.Errorf("delete IPAllocation %s: %w", key, err)
	}
	r.own[key] = ownWrite{nil, now}
	return nil
}
