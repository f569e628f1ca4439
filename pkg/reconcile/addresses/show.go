// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// List lists the LoadBalancer addresses and who answers for them.
func (a *Addresses) List() ([]agentapi.Address, error) {
	announced, err := a.Datapath.Announcements()
	if err != nil {
		return nil, err
	}
	expires := make(map[netip.Addr]time.Duration)
	for _, e := range announced {
		if e.Expires >= 0 {
			expires[e.Addr] = e.Expires
		}
	}
	known := a.states()
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []agentapi.Address
	for _, w := range a.shown {
		state, c := known[w.Addr], a.choices[w.Addr]
		view := agentapi.Address{Addr: w.Addr, Pool: w.Pool, Services: w.Services, Owner: cmp.Or(state.Holder, c.Owner), Reason: reason(state, c)}
		if left, ok := expires[w.Addr]; ok {
			view.Announced, view.Expires, view.NIC = true, left, c.nic
		}
		out = append(out, view)
	}
	return out, nil
}

func (a *Addresses) states() map[netip.Addr]holder.Address {
	known := map[netip.Addr]holder.Address{}
	for _, s := range a.Keeper.Addresses() {
		known[s.Addr] = s
	}
	return known
}

// reason is one line: why who has it has it, or why nobody does.
func reason(s holder.Address, c choice) string {
	switch {
	case s.Holder == "" && s.Why != "":
		return s.Why
	case s.Holder == "" || s.Holder == c.Owner:
		return c.Reason
	}
	return fmt.Sprintf("it has it; %s would be better: %s", c.Owner, c.Reason)
}

// Held are the addresses that this node answers for.
func (a *Addresses) Held() []announce.Claim {
	var claims []announce.Claim
	for _, s := range a.Keeper.Addresses() {
		if s.Phase == holder.Holding {
			claims = append(claims, announce.Claim{Addr: s.Addr, Link: s.Link})
		}
	}
	return claims
}

// report adds the announcements, and a condition for each thing that keeps an
// address from being answered for.
func (a *Addresses) report(status *v1alpha1.NodeNetworkStateStatus) {
	names := map[int]string{}
	a.mu.Lock()
	for _, n := range a.nics {
		names[n.Index] = n.Name
	}
	waived := map[netip.Addr]string{}
	for addr, c := range a.choices {
		if c.Owner == a.Node {
			waived[addr] = c.Waived()
		}
	}
	a.mu.Unlock()
	for _, s := range a.Keeper.Addresses() {
		if s.Phase == holder.Holding {
			status.Announcements = append(status.Announcements, v1alpha1.AnnouncementState{
				Address: s.Addr.String(), Interfaces: []string{names[s.Link]}, Epoch: int64(s.Epoch), Reason: s.Why, Waived: waived[s.Addr],
			})
		}
		if s.Stranger != ([6]byte{}) {
			status.Conditions = append(status.Conditions, metav1.Condition{Type: v1alpha1.NodeConditionConflict + v1alpha1.AllocationName(s.Addr), Status: metav1.ConditionTrue,
				Reason: "UsedByAnother", Message: fmt.Sprintf("%s is used by %s, which is no node of the cluster", s.Addr, probe.MAC(s.Stranger)), LastTransitionTime: metav1.Now()})
		}
	}
}
