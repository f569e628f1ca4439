// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// reportTimeout bounds how long writing the report may take.
const reportTimeout = 20 * time.Second

// report writes this node's NodeNetworkState if it differs from what is known
// to be written. Other nodes judge by it who can announce an address.
func (r *Reconciler) report(ctx context.Context) error {
	if r.Writer == nil || !r.Synced() {
		return nil
	}
	state := r.state()
	key := source.Key{Name: r.Config.NodeName}
	r.mu.Lock()
	have, ok := source.Get[*v1alpha1.NodeNetworkState](r.store, source.KindNodeNetworkState, key)
	r.mu.Unlock()
	if ok && equality.Semantic.DeepEqual(withoutTimes(have.Status), withoutTimes(state.Status)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	err := r.Writer.UpdateStatus(ctx, state)
	if errors.Is(err, source.ErrNotFound) {
		err = r.Writer.Apply(ctx, state)
		if err == nil {
			err = r.Writer.UpdateStatus(ctx, state)
		}
	}
	if err != nil {
		return fmt.Errorf("write NodeNetworkState %s: %w", key.Name, err)
	}
	return nil
}

// state is the report: what the node is like, without a clock in it.
func (r *Reconciler) state() *v1alpha1.NodeNetworkState {
	v := r.seen()
	state := &v1alpha1.NodeNetworkState{ObjectMeta: metav1.ObjectMeta{Name: r.Config.NodeName}}
	s := &state.Status
	s.Version = r.Version
	gateways, err := netdev.Gateways()
	r.problems.Note("agent/gateways", err)
	for _, n := range v.nics {
		nic := v1alpha1.NICState{Name: n.Name, Role: n.Role.String(), Reason: n.Reason, MAC: net.HardwareAddr(n.MAC[:]).String(),
			MTU: int32(n.MTU), Carrier: n.Carrier}
		for _, a := range n.Addrs {
			nic.Addresses = append(nic.Addresses, a.String())
		}
		for _, a := range gateways[n.Index] {
			nic.Gateways = append(nic.Gateways, a.String())
		}
		s.NICs = append(s.NICs, nic)
	}
	s.Blocks = r.blockStates()
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "InForce", LastTransitionTime: metav1.Now()}
	if status := r.Status(); !status.Ready {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "NotInForce", status.Reason
	}
	s.Conditions = []metav1.Condition{ready}
	r.others.Report(s)
	return state
}

// blockStates counts what is given out of this node's ranges, what rests
// included.
func (r *Reconciler) blockStates() []v1alpha1.NodeBlockState {
	contents, err := r.Leases.List()
	r.problems.Note("agent/leases", err)
	if err != nil {
		return nil
	}
	var held []netip.Addr
	for _, l := range contents.Leases {
		held = append(held, l.Addrs...)
	}
	for _, rest := range contents.Resting {
		held = append(held, rest.Addr)
	}
	var states []v1alpha1.NodeBlockState
	for _, p := range r.podRanges() {
		used, free := p.Use(held)
		states = append(states, v1alpha1.NodeBlockState{CIDR: p.Prefix.String(), Pool: p.Pool, Used: used, Free: free})
	}
	return states
}

// withoutTimes is the status as it is compared.
func withoutTimes(s v1alpha1.NodeNetworkStateStatus) v1alpha1.NodeNetworkStateStatus {
	out := *s.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	return out
}
