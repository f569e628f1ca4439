// SPDX-License-Identifier: Apache-2.0

// Package pools shows the pools of addresses, as the objects have them, through
// the agent's API, and drains them.
package pools

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Pools is a part that changes nothing by itself: it keeps hold of the objects.
type Pools struct {
	// Folder is where the objects are written by hand; empty where they are in
	// Kubernetes.
	Folder string
	Writer any // a Patcher, where they are in Kubernetes

	mu    sync.Mutex
	store *source.Store
}

// Patcher changes what is named of an object, and leaves the rest to its owner.
type Patcher interface {
	Patch(ctx context.Context, kind source.Kind, key source.Key, change []byte) error
}

// Part returns what the reconciler runs.
func (p *Pools) Part() parts.Part {
	return parts.Part{Name: "pools", Kinds: []source.Kind{source.KindIPPool, source.KindIPAllocation}, Early: true,
		Sync: func(_ context.Context, v parts.Objects) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.store = v.Store
			return nil
		}}
}

// Serve adds the operations to the agent's.
func (p *Pools) Serve(h agentapi.Handler) {
	h[agentapi.OpPools] = agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Pool, error) { return List(p.objects()), nil })
	h[agentapi.OpPoolDrain] = agentapi.Do(p.drain)
}

func (p *Pools) objects() *source.Store {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.store == nil {
		return source.NewStore()
	}
	return p.store
}

// List returns the pools by name.
func List(store *source.Store) []agentapi.Pool {
	owners := map[string][]agentapi.PoolOwner{}
	for _, a := range source.List[*v1alpha1.IPAllocation](store, source.KindIPAllocation) {
		if a.Spec.State != v1alpha1.AllocationActive && a.Spec.State != v1alpha1.AllocationReserved {
			continue
		}
		for _, owner := range a.Spec.Owners {
			owners[a.Spec.Pool] = append(owners[a.Spec.Pool], agentapi.PoolOwner{
				Address: a.Spec.Address, Service: owner.Namespace + "/" + owner.Name, State: string(a.Spec.State),
			})
		}
	}
	var pools []agentapi.Pool
	for _, obj := range source.List[*v1alpha1.IPPool](store, source.KindIPPool) {
		pools = append(pools, describe(obj, owners[obj.Name]))
	}
	return pools
}

func describe(obj *v1alpha1.IPPool, owners []agentapi.PoolOwner) agentapi.Pool {
	st := &obj.Status
	pool := agentapi.Pool{
		Name: obj.Name, Use: string(obj.Spec.Use), Ranges: slices.Clone(obj.Spec.CIDRs), AutoAssign: obj.Spec.AutoAssign == nil || *obj.Spec.AutoAssign,
		Disabled: obj.Spec.Disabled, Priority: obj.Spec.Priority, Total: st.Total, Used: st.Used, Free: st.Free, Owners: owners,
	}
	for _, r := range obj.Spec.Ranges {
		pool.Ranges = append(pool.Ranges, r.First+"-"+r.Last)
	}
	for _, c := range st.Conflicts {
		pool.Conflicts = append(pool.Conflicts, agentapi.PoolConflict{Address: c.Address, MAC: c.MAC, Node: c.Node})
	}
	for _, c := range st.Conditions {
		if bad := c.Status == metav1.ConditionTrue; (bad && c.Type != "Ready" || !bad && c.Type == "Ready") && c.Status != metav1.ConditionUnknown {
			pool.Problems = append(pool.Problems, cmp.Or(c.Message, c.Type))
		}
	}
	slices.SortFunc(pool.Owners, func(a, b agentapi.PoolOwner) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Service, b.Service))
	})
	return pool
}

// drain has a pool give nothing any more. What it gave stays, until its owners
// are gone or ask for another address.
func (p *Pools) drain(ctx context.Context, d agentapi.PoolDrain) (agentapi.Pool, error) {
	store := p.objects()
	obj, ok := source.Get[*v1alpha1.IPPool](store, source.KindIPPool, source.Key{Name: d.Pool})
	if !ok {
		return agentapi.Pool{}, agentapi.Errorf(agentapi.CodeUnknown, "there is no pool %s", d.Pool)
	}
	if obj.Spec.Disabled == d.Off {
		if p.Folder != "" {
			return agentapi.Pool{}, agentapi.Errorf(agentapi.CodeInvalid,
				"the objects in %s are written by hand: set spec.disabled to %v in the file that has IPPool %s", p.Folder, !d.Off, d.Pool)
		}
		to, ok := p.Writer.(Patcher)
		if !ok {
			return agentapi.Pool{}, fmt.Errorf("write IPPool %s: this agent can't", d.Pool)
		}
		if err := to.Patch(ctx, source.KindIPPool, source.KeyOf(obj), fmt.Appendf(nil, `{"spec":{"disabled":%v}}`, !d.Off)); err != nil {
			return agentapi.Pool{}, err
		}
	}
	pools := List(store)
	i := slices.IndexFunc(pools, func(pool agentapi.Pool) bool { return pool.Name == d.Pool })
	if i < 0 {
		return agentapi.Pool{}, agentapi.Errorf(agentapi.CodeUnknown, "pool %s is gone", d.Pool)
	}
	pools[i].Disabled = !d.Off
	return pools[i], nil
}
