// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// fake keeps endpoints as the datapath does.
type fake struct {
	mu     sync.Mutex
	list   []datapath.Endpoint
	during func() // happens while an endpoint is added
}

func (f *fake) AddEndpoint(e datapath.Endpoint) error {
	if f.during != nil {
		f.during()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, e)
	return nil
}

func (f *fake) RemoveEndpoint(e datapath.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(o datapath.Endpoint) bool { return o.IfIndex == e.IfIndex })
	return nil
}

func (f *fake) Endpoints() ([]datapath.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list), nil
}

type lab struct {
	here, peer *netlab.Namespace
	dp         *fake
	leases     *store.Store
	gate       string
	ports      int // times that host ports changed
	table      *Table
}

func newLab(t *testing.T) *lab {
	l := &lab{here: netlab.Open(t, "/proc/self/ns/net"), peer: netlab.New(t), dp: &fake{}}
	l.leases = store.New(filepath.Join(t.TempDir(), "leases.db"), store.Options{})
	l.gate = filepath.Join(t.TempDir(), "cni.lock")
	l.table = New(l.dp, l.leases, l.gate, func() { l.ports++ }, slog.New(slog.DiscardHandler))
	go l.table.Run(t.Context())
	return l
}

func pod(id string, index int) agentapi.Endpoint {
	return agentapi.Endpoint{
		EndpointKey: agentapi.EndpointKey{ContainerID: id, IfName: "eth0"}, HostIfName: "pb0123456789a", HostIfIndex: index,
		HostMAC: "02:00:00:00:00:01", MAC: "02:00:00:00:00:02", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.7")}, Generation: 5,
	}
}

func TestEndpoints(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if err := l.table.Add(pod("c1", 41)); err != nil {
			t.Fatal(err)
		}
		if err := l.table.Check(pod("c1", 41)); err != nil {
			t.Errorf("check: %v", err)
		}
		bad := pod("c2", 0)
		if typed, ok := errors.AsType[*agentapi.Error](l.table.Add(bad)); !ok || typed.Code != agentapi.CodeInvalid {
			t.Errorf("endpoint without interface: want code %d", agentapi.CodeInvalid)
		}
		old := agentapi.EndpointDelete{EndpointKey: pod("c1", 41).EndpointKey, Generation: 4}
		if err := l.table.Delete(old); err != nil || len(l.table.List()) != 1 {
			t.Errorf("a late DEL of an older generation: %v, pods %v", err, l.table.List())
		}
		old.Generation = 5
		netlab.Wire(t, l.here, "pb0123456789a", l.peer, "eth9")
		old.HostIfName, old.HostIfIndex = "pb0123456789a", l.here.Index(t, "pb0123456789a")
		for range 2 {
			if err := l.table.Delete(old); err != nil || len(l.table.List()) != 0 {
				t.Errorf("DEL: %v, pods %v", err, l.table.List())
			}
		}
		netlab.WaitFor(t, 5*time.Second, "link removed", func() error {
			if links, err := netdev.PodLinks(); err != nil || len(links) > 0 {
				return fmt.Errorf("links %v, %v", links, err)
			}
			return nil
		})
		if err := l.table.Check(pod("c1", 41)); err == nil {
			t.Error("check of a deleted endpoint succeeds")
		}
		netlab.Wire(t, l.here, "pb0123456789b", l.peer, "eth8")
		if l.ports != 0 {
			t.Errorf("host ports changed %d times without any", l.ports)
		}
		mapped := pod("c3", 43)
		mapped.Ports = []agentapi.PortMapping{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}}
		if err := errors.Join(l.table.Add(mapped), l.table.Delete(agentapi.EndpointDelete{EndpointKey: mapped.EndpointKey})); err != nil || l.ports != 2 {
			t.Errorf("host ports changed %d times, %v, want at ADD and DEL", l.ports, err)
		}
		one, two := pod("c1", 41), pod("c2", l.here.Index(t, "pb0123456789b"))
		two.Addrs = []netip.Addr{netip.MustParseAddr("10.244.0.8")}
		if err := errors.Join(l.table.Add(one), l.table.Add(two)); err != nil {
			t.Fatal(err)
		}
		if err := l.table.GC(agentapi.GC{Valid: []agentapi.EndpointKey{two.EndpointKey}}); err != nil || len(l.table.List()) != 1 {
			t.Errorf("GC: %v, pods %v", err, l.table.List())
		}
	})
}

// TestAdopt: after a restart the endpoints with a lease and a link are taken
// over, what the datapath has beyond them goes, and so does the lease of a pod
// that is certainly gone, unless an ADD is under way.
func TestAdopt(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		key := func(id string) store.Key { return store.Key{ContainerID: id, IfName: "eth0"} }
		netlab.Wire(t, l.here, key("live").Link(), l.peer, "eth9")
		pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.244.0.0/24")})
		if err != nil {
			t.Fatal(err)
		}
		for _, lease := range []store.Lease{
			{Key: key("live"), Network: "patchbay", Netns: l.peer.Path()},
			{Key: key("gone"), Network: "patchbay", Netns: "/var/run/netns/gone"},
			{Key: key("other network"), Network: "bridge", Netns: "/run/netns/gone"},
			{Key: key("out of sight"), Network: "patchbay", Netns: "/nowhere/netns/gone"},
			{Key: key("without name"), Network: "patchbay", Netns: "/proc/1/fd/99"},
		} {
			lease.MAC = "02:00:00:00:00:02"
			if _, err := l.leases.Allocate(store.Request{Lease: lease, Pools: []ipam.Pool{pool}}); err != nil {
				t.Fatal(err)
			}
		}
		l.dp.list = []datapath.Endpoint{{IfIndex: 4242, Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.99")}}}
		left := func() (ids []string) {
			if err := l.table.Adopt(); err != nil {
				t.Fatal(err)
			}
			contents, err := l.leases.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, lease := range contents.Leases {
				ids = append(ids, lease.ContainerID)
			}
			return ids
		}
		busy, err := flock.Take(l.gate, flock.Shared, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := left(); len(got) != 5 {
			t.Errorf("during an ADD the leases left are %q, want all", got)
		}
		busy.Close()
		netlab.WaitFor(t, 5*time.Second, "lease of the gone pod released", func() error {
			if got := left(); !slices.Equal(got, []string{"live", "other network", "out of sight", "without name"}) {
				return fmt.Errorf("leases left: %q", got)
			}
			return nil
		})
		if err := l.table.Add(pod("ghost", 77)); err != nil {
			t.Fatal(err)
		}
		if left(); len(l.table.List()) != 1 {
			t.Errorf("pods %+v, want the live one alone", l.table.List())
		}
		if got := l.dp.list; len(got) != 1 || got[0].IfIndex != l.here.Index(t, key("live").Link()) {
			t.Errorf("endpoints %+v, want the live one alone", got)
		}
	})
}

// TestDeletedWhileAdopted: a DEL that comes while its endpoint is adopted wins.
func TestDeletedWhileAdopted(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		key := store.Key{ContainerID: "c", IfName: "eth0"}
		netlab.Wire(t, l.here, key.Link(), l.peer, "eth9")
		pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.244.0.0/24")})
		if err != nil {
			t.Fatal(err)
		}
		lease, err := l.leases.Allocate(store.Request{
			Lease: store.Lease{Key: key, Network: "patchbay", Netns: l.peer.Path(), MAC: "02:00:00:00:00:02"}, Pools: []ipam.Pool{pool},
		})
		if err != nil {
			t.Fatal(err)
		}
		l.dp.during = func() {
			if err := l.table.Delete(agentapi.EndpointDelete{EndpointKey: agentapi.EndpointKey(key), Generation: lease.Generation}); err != nil {
				t.Error(err)
			}
		}
		if err := l.table.Adopt(); err != nil || len(l.table.List()) != 0 || len(l.dp.list) != 0 {
			t.Errorf("adopt: %v, endpoints %+v, datapath %+v, want none", err, l.table.List(), l.dp.list)
		}
		l.dp.during = nil
		if err := l.table.Adopt(); err != nil || len(l.table.List()) != 1 {
			t.Errorf("adopt: %v, endpoints %+v, want the one that has link and lease", err, l.table.List())
		}
	})
}
