// SPDX-License-Identifier: Apache-2.0

// Package endpoints keeps the pods' interfaces of a node in force: as the CNI
// plugin asks, and after a restart as leases and links say. It remembers nothing
// that can't be found again.
package endpoints

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// Datapath is what is asked of pkg/datapath.
type Datapath interface {
	AddEndpoint(datapath.Endpoint) error
	RemoveEndpoint(datapath.Endpoint) error
	Endpoints() ([]datapath.Endpoint, error)
}

// Table is the node's endpoints. Make one with New; safe for concurrent use.
type Table struct {
	datapath Datapath
	leases   *store.Store
	gate     *flock.Lock // that every ADD holds shared
	log      *slog.Logger
	ports    func()        // is told when host ports changed
	reaping  chan struct{} // there is something for the reaper

	adopting sync.Mutex // held while endpoints are looked through

	mu        sync.Mutex
	endpoints map[agentapi.EndpointKey]*endpoint
	doomed    map[doom]agentapi.EndpointDelete // whose links and leases are to end
	// ended are the keys deleted while endpoints are looked through, with their
	// generation: what was listed before may still speak of them. Else it is nil.
	ended map[agentapi.EndpointKey]uint64
}

// endpoint is a pod's interface as the agent keeps it.
type endpoint struct {
	agentapi.Endpoint
	problem string
}

// New returns a table without endpoints; Adopt finds those that are there.
// Gate is the lock file that each ADD holds shared from before its lease is
// made; ports is called when host ports have changed.
func New(dp Datapath, leases *store.Store, gate string, ports func(), log *slog.Logger) *Table {
	return &Table{
		datapath: dp, leases: leases, gate: flock.New(gate), ports: ports, log: log, reaping: make(chan struct{}, 1),
		endpoints: map[agentapi.EndpointKey]*endpoint{}, doomed: map[doom]agentapi.EndpointDelete{},
	}
}

// Add puts a pod's interface in force.
func (t *Table) Add(e agentapi.Endpoint) error {
	dp, err := toDatapath(e)
	if err != nil {
		return err
	}
	if err := t.datapath.AddEndpoint(dp); err != nil {
		return fmt.Errorf("endpoint %s/%s on %s: %w", e.ContainerID, e.IfName, e.HostIfName, err)
	}
	t.mu.Lock()
	delete(t.ended, e.EndpointKey)
	t.mu.Unlock()
	t.put(&endpoint{Endpoint: e})
	return nil
}

// put remembers an endpoint. Of several with one address the last counts.
func (t *Table) put(e *endpoint) {
	t.mu.Lock()
	ports := len(e.Ports) > 0
	for key, other := range t.endpoints {
		if key != e.EndpointKey && slices.ContainsFunc(other.Addrs, func(a netip.Addr) bool { return slices.Contains(e.Addrs, a) }) {
			ports = ports || len(other.Ports) > 0
			delete(t.endpoints, key)
		}
	}
	t.endpoints[e.EndpointKey] = e
	t.mu.Unlock()
	if ports {
		t.ports()
	}
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

// Delete takes a pod's interface out: its entries now, its link behind
// the answer. An older generation than the one kept leaves it: its key was used
// again meanwhile.
func (t *Table) Delete(d agentapi.EndpointDelete) error {
	t.mu.Lock()
	kept := t.endpoints[d.EndpointKey]
	if kept != nil && d.Generation != 0 && d.Generation < kept.Generation {
		t.mu.Unlock()
		return nil
	}
	delete(t.endpoints, d.EndpointKey)
	if t.ended != nil {
		t.ended[d.EndpointKey] = cmp.Or(d.Generation, math.MaxUint64)
	}
	t.mu.Unlock()
	if kept != nil && len(kept.Ports) > 0 {
		t.ports()
	}
	if err := t.forget(kept, d); err != nil {
		return fmt.Errorf("endpoint %s/%s: %w", d.ContainerID, d.IfName, err)
	}
	t.reap(d)
	return nil
}

// forget takes an endpoint's entries out of the datapath.
func (t *Table) forget(kept *endpoint, d agentapi.EndpointDelete) error {
	switch {
	case kept != nil:
		return t.datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: kept.HostIfIndex, Addrs: kept.Addrs})
	case d.HostIfIndex != 0:
		return t.datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: d.HostIfIndex})
	}
	return nil // without a link; what was at it goes when endpoints are next looked through
}

// Check returns an error if the endpoint isn't in force as given.
func (t *Table) Check(e agentapi.Endpoint) error {
	want, err := toDatapath(e)
	if err != nil {
		return err
	}
	have, err := t.datapath.Endpoints()
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
func (t *Table) GC(gc agentapi.GC) error {
	t.mu.Lock()
	var stale []*endpoint
	for key, e := range t.endpoints {
		if e.Network == gc.Network && !slices.Contains(gc.Valid, key) {
			stale = append(stale, e)
			delete(t.endpoints, key)
		}
	}
	t.mu.Unlock()
	var errs []error
	t.ports()
	for _, e := range stale {
		errs = append(errs, t.datapath.RemoveEndpoint(datapath.Endpoint{IfIndex: e.HostIfIndex, Addrs: e.Addrs}))
	}
	return errors.Join(append(errs, t.Adopt())...)
}

// Adopt takes over the pods that are there: those with a lease of this
// boot and a link. A lease that is marked as ended is ended. What the datapath has at links that are no more goes, and so
// does the lease of a pod whose namespace and link are gone. A link without a
// lease stays: its addresses may be another IPAM plugin's.
func (t *Table) Adopt() error {
	t.adopting.Lock()
	defer t.adopting.Unlock()
	t.mu.Lock()
	before := maps.Clone(t.endpoints)
	t.ended = map[agentapi.EndpointKey]uint64{}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.ended = nil
		t.mu.Unlock()
	}()
	have, err := t.datapath.Endpoints()
	if err != nil {
		return err
	}
	links, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	contents, err := t.leases.List()
	if err != nil {
		return err
	}
	bootID, err := boot.ID()
	if err != nil {
		return err
	}
	var errs []error
	orphans := false
	for _, lease := range contents.Leases {
		if lease.Damaged || lease.BootID != bootID {
			continue
		}
		link, there := links[lease.Link()]
		if lease.Ended {
			errs = append(errs, t.Delete(ending(lease, link)))
		} else if there {
			errs = append(errs, t.adopt(lease, link))
		} else if orphaned(lease) {
			orphans = true
		}
	}
	if orphans {
		errs = append(errs, t.releaseOrphans())
	}
	live := make(map[int]bool, len(links))
	for _, l := range links {
		live[l.Index] = true
	}
	for _, h := range have {
		if !live[h.IfIndex] {
			errs = append(errs, t.datapath.RemoveEndpoint(h))
		}
	}
	t.forgetDead(before, live)
	return errors.Join(errs...)
}

// forgetDead forgets the endpoints whose link is no more, of those that were
// known before it was looked.
func (t *Table) forgetDead(before map[agentapi.EndpointKey]*endpoint, live map[int]bool) {
	t.mu.Lock()
	ports := false
	for key, e := range before {
		if t.endpoints[key] == e && !live[e.HostIfIndex] {
			delete(t.endpoints, key)
			ports = ports || len(e.Ports) > 0
		}
	}
	t.mu.Unlock()
	if ports {
		t.ports()
	}
}

// adopt takes over an endpoint from its lease and link.
func (t *Table) adopt(lease store.Lease, link netdev.Link) error {
	e := agentapi.Endpoint{
		EndpointKey: agentapi.EndpointKey(lease.Key), Network: lease.Network, Netns: lease.Netns, HostIfName: link.Name, HostIfIndex: link.Index,
		HostMAC: net.HardwareAddr(link.MAC[:]).String(), MAC: lease.MAC, Addrs: lease.Addrs, Generation: lease.Generation,
		PodNamespace: lease.PodNamespace, PodName: lease.PodName, PodUID: lease.PodUID,
	}
	for _, p := range lease.Ports {
		e.Ports = append(e.Ports, agentapi.PortMapping(p))
	}
	t.mu.Lock()
	known := t.endpoints[e.EndpointKey]
	t.mu.Unlock()
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
	err = t.datapath.AddEndpoint(dp)
	if errors.Is(err, unix.ENODEV) {
		return nil // a DEL is under way
	}
	if err != nil {
		adopted.problem = err.Error()
		t.log.Warn("adopt endpoint", "lease", lease.Key, "err", err)
	}
	t.put(adopted)
	t.mu.Lock()
	generation, ended := t.ended[e.EndpointKey]
	ended = ended && lease.Generation <= generation && t.endpoints[e.EndpointKey] == adopted
	if ended {
		delete(t.endpoints, e.EndpointKey)
	}
	t.mu.Unlock()
	if ended { // while it was adopted
		return t.datapath.RemoveEndpoint(dp)
	}
	return nil
}

// List lists the endpoints, by pod.
func (t *Table) List() []agentapi.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	pods := make([]agentapi.Pod, 0, len(t.endpoints))
	for _, e := range t.endpoints {
		pods = append(pods, agentapi.Pod{Endpoint: e.Endpoint, Attached: e.problem == "", Problem: e.problem})
	}
	slices.SortFunc(pods, func(a, b agentapi.Pod) int {
		return strings.Compare(a.PodNamespace+"/"+a.PodName+"/"+a.ContainerID, b.PodNamespace+"/"+b.PodName+"/"+b.ContainerID)
	})
	return pods
}

// releaseOrphans ends the leases of pods that are gone without a DEL. While it
// holds the gate no ADD is between its lease and its link; if others hold it,
// there is time until the next start or GC.
func (t *Table) releaseOrphans() error {
	gate, err := t.gate.Take(flock.Exclusive, 100*time.Millisecond)
	if errors.Is(err, flock.ErrTimeout) {
		return nil
	}
	if err != nil {
		return err
	}
	defer gate.Close()
	contents, err := t.leases.List()
	if err != nil {
		return err
	}
	links, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, lease := range contents.Leases {
		if _, there := links[lease.Link()]; there || lease.Damaged || !orphaned(lease) {
			continue
		}
		t.log.Info("pod is gone without a DEL; its addresses begin to rest", "lease", lease.Key, "addrs", lease.Addrs)
		_, _, err := t.leases.Release(lease.Key, lease.Generation)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// orphaned tells whether a lease of our own network belongs to a network
// namespace that is certainly no more: it can't be said of one whose folder
// can't be seen from here.
func orphaned(lease store.Lease) bool {
	path := lease.Netns
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + rest
	}
	if lease.Network != plan.NetworkName || !filepath.IsAbs(path) || strings.HasPrefix(path, "/proc/") {
		return false
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
