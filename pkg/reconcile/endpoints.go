// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// firstSync is how long an ADD may wait for the objects.
const firstSync = 10 * time.Second

type endpointKey = agentapi.EndpointKey

// endpoint is a pod's interface as the agent keeps it.
type endpoint struct {
	agentapi.Endpoint
	problem string
}

// AddEndpoint puts a pod's interface in force. It returns only once Services
// are, too: what the pod first connects to is balanced.
func (r *Reconciler) AddEndpoint(ctx context.Context, e agentapi.Endpoint) error {
	dp, err := toDatapath(e)
	if err != nil {
		return err
	}
	if err := r.awaitSync(ctx); err != nil {
		return err
	}
	if err := r.Datapath.AddEndpoint(dp); err != nil {
		return fmt.Errorf("endpoint %s/%s on %s: %w", e.ContainerID, e.IfName, e.HostIfName, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, other := range r.endpoints { // a later lease of the same address counts
		if key != e.EndpointKey && slices.ContainsFunc(other.Addrs, func(a netip.Addr) bool { return slices.Contains(e.Addrs, a) }) {
			delete(r.endpoints, key)
		}
	}
	r.endpoints[e.EndpointKey] = &endpoint{Endpoint: e}
	return nil
}

func (r *Reconciler) awaitSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstSync)
	defer cancel()
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return agentapi.Errorf(agentapi.CodeTryLater, "agent is not ready: %s", r.whyNotSynced())
	}
}

// whyNotSynced says what the agent still waits for.
func (r *Reconciler) whyNotSynced() string {
	for _, p := range r.Problems() {
		return p.Object + ": " + p.Text
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range Kinds() {
		if !r.store.Synced(kind) {
			return fmt.Sprintf("objects of kind %s have not been read from %s yet", kind, r.Config.Source)
		}
	}
	return "starting"
}

func toDatapath(e agentapi.Endpoint) (datapath.Endpoint, error) {
	mac, err1 := parseMAC(e.MAC)
	hostMAC, err2 := parseMAC(e.HostMAC)
	if err := errors.Join(err1, err2); err != nil {
		return datapath.Endpoint{}, agentapi.Errorf(agentapi.CodeInvalid, "endpoint %s/%s: %v", e.ContainerID, e.IfName, err)
	}
	if e.HostIfIndex <= 0 || len(e.Addrs) == 0 {
		return datapath.Endpoint{}, agentapi.Errorf(agentapi.CodeInvalid, "endpoint %s/%s: interface or addresses missing", e.ContainerID, e.IfName)
	}
	return datapath.Endpoint{IfIndex: e.HostIfIndex, HostMAC: hostMAC, MAC: mac, Addrs: e.Addrs}, nil
}

func parseMAC(s string) ([6]byte, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return [6]byte{}, fmt.Errorf("%q is not a MAC address", s)
	}
	return [6]byte(hw), nil
}

// DeleteEndpoint takes a pod's interface out: its entries now, its link behind
// the answer. An older generation than the one kept leaves it: its key was used
// again meanwhile.
func (r *Reconciler) DeleteEndpoint(_ context.Context, d agentapi.EndpointDelete) error {
	r.mu.Lock()
	kept := r.endpoints[d.EndpointKey]
	if kept != nil && d.Generation != 0 && d.Generation < kept.Generation {
		r.mu.Unlock()
		return nil
	}
	delete(r.endpoints, d.EndpointKey)
	r.mu.Unlock()
	if err := r.forget(kept, d); err != nil {
		return fmt.Errorf("endpoint %s/%s: %w", d.ContainerID, d.IfName, err)
	}
	if d.HostIfIndex != 0 && netdev.IsPodLink(d.HostIfName) {
		r.removeLink(d.HostIfName, d.HostIfIndex)
	}
	return nil
}

// forget takes an endpoint's entries out of the datapath.
func (r *Reconciler) forget(kept *endpoint, d agentapi.EndpointDelete) error {
	switch {
	case kept != nil:
		return r.Datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: kept.HostIfIndex, Addrs: kept.Addrs})
	case d.HostIfIndex != 0:
		return r.Datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: d.HostIfIndex})
	}
	return nil // without a link; what was at it goes when endpoints are next looked through
}

// removeLink has the reaper remove a host end.
func (r *Reconciler) removeLink(name string, index int) {
	r.mu.Lock()
	r.doomed[index] = name
	r.mu.Unlock()
	signal(r.reap)
}

// reaper removes the links of endpoints that are no more: those that gather
// while it is at work, together.
func (r *Reconciler) reaper(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.reap:
		}
		r.mu.Lock()
		due := r.doomed
		r.doomed = make(map[int]string)
		r.mu.Unlock()
		if err := netdev.RemovePodLinks(due); err != nil {
			r.Log.Warn("remove pods' links; the plugin does it then", "err", err)
		}
	}
}

// CheckEndpoint returns an error if the endpoint isn't in force as given.
func (r *Reconciler) CheckEndpoint(_ context.Context, e agentapi.Endpoint) error {
	want, err := toDatapath(e)
	if err != nil {
		return err
	}
	have, err := r.Datapath.Endpoints()
	if err != nil {
		return err
	}
	for _, h := range have {
		if h.IfIndex != want.IfIndex {
			continue
		}
		for _, a := range want.Addrs {
			if !slices.Contains(h.Addrs, a) {
				return agentapi.Errorf(agentapi.CodeUnknown, "endpoint %s/%s: address %s is not in force", e.ContainerID, e.IfName, a)
			}
		}
		return nil
	}
	return agentapi.Errorf(agentapi.CodeUnknown, "endpoint %s/%s: not in force on %s; delete the pod to have it made anew", e.ContainerID, e.IfName, e.HostIfName)
}

// GC removes every endpoint of a network that isn't valid. The leases are the
// plugin's.
func (r *Reconciler) GC(_ context.Context, gc agentapi.GC) error {
	r.mu.Lock()
	var stale []*endpoint
	for key, e := range r.endpoints {
		if e.Network == gc.Network && !slices.Contains(gc.Valid, key) {
			stale = append(stale, e)
			delete(r.endpoints, key)
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, e := range stale {
		errs = append(errs, r.Datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: e.HostIfIndex, Addrs: e.Addrs}))
	}
	r.touch(partEndpoints)
	return errors.Join(errs...)
}

// syncEndpoints takes over the pods that are there: those with a lease of this
// boot and a link. What the datapath has at links that are no more goes, and so
// does the lease of a pod whose namespace and link are gone. A link without a
// lease stays: its addresses may be another IPAM plugin's.
func (r *Reconciler) syncEndpoints() error {
	have, err := r.Datapath.Endpoints()
	if err != nil {
		return err
	}
	links, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	contents, err := r.Leases.List()
	if err != nil {
		return err
	}
	bootID, err := boot.ID()
	if err != nil {
		return err
	}
	var errs []error
	for _, lease := range contents.Leases {
		link, there := links[lease.Link()]
		switch {
		case lease.Damaged || lease.BootID != bootID:
		case there:
			errs = append(errs, r.adopt(lease, link))
		case namespaceGone(lease.Netns):
			r.Log.Info("pod is gone without a DEL; its addresses begin to rest", "lease", lease.Key, "addrs", lease.Addrs)
			_, _, err := r.Leases.Release(lease.Key, lease.Generation)
			errs = append(errs, err)
		}
	}
	live := make(map[int]bool, len(links))
	for _, l := range links {
		live[l.Index] = true
	}
	for _, h := range have {
		if !live[h.IfIndex] {
			errs = append(errs, r.Datapath.RemoveEndpoint(h))
		}
	}
	return errors.Join(errs...)
}

// adopt takes over an endpoint from its lease and link.
func (r *Reconciler) adopt(lease store.Lease, link netdev.Link) error {
	e := agentapi.Endpoint{
		EndpointKey: agentapi.EndpointKey(lease.Key), Network: lease.Network, Netns: lease.Netns, HostIfName: link.Name, HostIfIndex: link.Index,
		HostMAC: net.HardwareAddr(link.MAC[:]).String(), MAC: lease.MAC, Addrs: lease.Addrs, Generation: lease.Generation,
		PodNamespace: lease.PodNamespace, PodName: lease.PodName, PodUID: lease.PodUID,
	}
	r.mu.Lock()
	known := r.endpoints[e.EndpointKey]
	r.mu.Unlock()
	if known != nil && known.HostIfIndex == link.Index {
		return nil
	}
	if lease.MAC == "" {
		return nil // an ADD is under way; it will say
	}
	dp, err := toDatapath(e)
	if err != nil {
		return err
	}
	adopted := &endpoint{Endpoint: e}
	if err := r.Datapath.AddEndpoint(dp); err != nil {
		adopted.problem = err.Error()
		r.Log.Warn("adopt endpoint", "lease", lease.Key, "err", err)
	}
	r.mu.Lock()
	r.endpoints[e.EndpointKey] = adopted
	r.mu.Unlock()
	return nil
}

// namespaceGone tells whether a pod's network namespace is certainly no more.
func namespaceGone(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
