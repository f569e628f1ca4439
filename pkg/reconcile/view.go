// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/load"
	"github.com/patchbay-net/patchbay/pkg/monitor"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// view is what the last passes made, for readers. Its parts are replaced whole.
type view struct {
	nics     []nic.NIC
	net      plan.Network
	nodes    []plan.Node
	entries  []service.Entry
	computed bool      // entries are
	passed   time.Time // when the last pass ended
	finished bool      // a pass has come to its end
	unready  error     // why pods can't be added all the same
}

func (r *Reconciler) update(f func(*view)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.view)
}

func (r *Reconciler) seen() view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view
}

// Synced tells whether all that the objects say has been put in force once.
func (r *Reconciler) Synced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

// Status tells whether pods can be added now.
func (r *Reconciler) Status() agentapi.Status {
	v := r.seen()
	switch {
	case !r.Synced():
		return agentapi.Status{Reason: r.whyNotSynced()}
	case v.unready != nil:
		return agentapi.Status{Reason: v.unready.Error()}
	}
	return agentapi.Status{Ready: v.finished}
}

// Info describes the agent and its node.
func (r *Reconciler) Info() (agentapi.Info, error) {
	id, err := boot.ID()
	if err != nil {
		return agentapi.Info{}, err
	}
	status, v := r.Status(), r.seen()
	info := agentapi.Info{
		Version: r.Version, Node: r.Config.NodeName, Role: "node", Source: r.Config.Source, Synced: r.Synced(),
		Ready: status.Ready, Reason: status.Reason, BootID: id, Started: r.started, Schema: load.Schema,
		Routing: string(r.Config.Routing.Mode), PodCIDRs: r.podCIDRs(), Problems: r.problems.List(),
		Counts: agentapi.Counts{Pods: len(r.Pods()), Services: r.store.Len(source.KindService), Frontends: len(v.entries), Nodes: len(v.nodes)},
	}
	for _, e := range v.entries {
		info.Counts.Backends += len(e.Backends)
	}
	addresses, err := r.Addresses()
	for _, a := range addresses {
		if a.Announced {
			info.Counts.Announced++
		}
	}
	return info, err
}

// Pods lists the node's endpoints.
func (r *Reconciler) Pods() []agentapi.Pod { return r.pods.List() }

// Services lists the frontends in force.
func (r *Reconciler) Services() []agentapi.Service {
	entries := r.seen().entries
	out := make([]agentapi.Service, len(entries))
	for i, e := range entries {
		f := e.Frontend
		out[i] = agentapi.Service{
			Namespace: e.Port.Namespace, Name: e.Port.Name, Port: e.Port.Port, Kind: e.Kind.String(),
			Frontend: netip.AddrPortFrom(f.IP, f.Port), Protocol: f.Protocol.String(), Scope: f.Scope.String(),
			Empty: e.Empty.String(), Affinity: e.Affinity, SourceRanges: e.SourceRanges,
		}
		for _, b := range e.Backends {
			out[i].Backends = append(out[i].Backends, agentapi.Backend(b))
		}
	}
	return out
}

// Addresses lists the LoadBalancer addresses and who answers for them.
func (r *Reconciler) Addresses() ([]agentapi.Address, error) {
	if r.Options.Addresses == nil {
		return nil, nil
	}
	return r.Options.Addresses()
}

// ListLeases lists the pods' leases.
func (r *Reconciler) ListLeases() ([]agentapi.Lease, error) {
	contents, err := r.Leases.List()
	if err != nil {
		return nil, err
	}
	var out []agentapi.Lease
	for _, l := range contents.Leases {
		state := "active"
		if l.Damaged {
			state = "damaged"
		}
		out = append(out, agentapi.Lease{
			EndpointKey: agentapi.EndpointKey(l.Key), Addrs: l.Addrs, State: state, Pool: l.Network, PodNamespace: l.PodNamespace,
			PodName: l.PodName, HostIfName: l.Link(), Generation: l.Generation, Created: l.Created,
		})
	}
	for _, rest := range contents.Resting {
		out = append(out, agentapi.Lease{Addrs: []netip.Addr{rest.Addr}, State: "cooling"})
	}
	return out, nil
}

// NICs lists the node's interfaces with their roles.
func (r *Reconciler) NICs() []agentapi.NIC {
	var out []agentapi.NIC
	for _, n := range r.seen().nics {
		out = append(out, agentapi.NIC{
			Name: n.Name, Index: n.Index, Role: n.Role.String(), Reason: n.Reason, MAC: net.HardwareAddr(n.MAC[:]).String(),
			MTU: n.MTU, Addrs: n.Addrs, Carrier: n.Carrier, Problem: n.Warning,
		})
	}
	return out
}

// Drops lists the drop counters.
func (r *Reconciler) Drops() ([]agentapi.Drop, error) {
	drops, err := r.Datapath.Drops()
	if err != nil {
		return nil, err
	}
	out := make([]agentapi.Drop, len(drops))
	for i, d := range drops {
		out[i] = agentapi.Drop(d)
	}
	return out, nil
}

// Health is what the node says to kubelet and to load balancers. As kube-proxy
// has it, a node that has no object, or none any more, gets no new traffic.
func (r *Reconciler) Health() monitor.Health {
	obj, ok := source.Get[*corev1.Node](r.store, source.KindNode, source.Key{Name: r.Config.NodeName})
	leaving := !ok || obj.DeletionTimestamp != nil ||
		slices.ContainsFunc(obj.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "ToBeDeletedByClusterAutoscaler" })
	return monitor.Health{Synced: r.Synced(), Leaving: leaving, Updated: r.seen().passed}
}
