// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// fakeDatapath keeps what it is told, as the kernel would, and fails on demand.
type fakeDatapath struct {
	mu           sync.Mutex
	nics         map[int]datapath.NIC
	tunnel       datapath.Tunnel
	endpoints    []datapath.Endpoint
	entries      []service.Entry
	sets         int // calls of SetServices
	routes       []datapath.Route
	peers        []datapath.Peer
	failServices int    // so many calls of SetServices fail
	failNICs     int    // so many calls of SetNIC fail
	refuse       string // the Service of this name is refused, as when a map is full
}

var errFake = errors.New("the kernel says no")

func (f *fakeDatapath) SetNIC(n datapath.NIC) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failNICs > 0 {
		f.failNICs--
		return errFake
	}
	if f.nics == nil {
		f.nics = map[int]datapath.NIC{}
	}
	f.nics[n.Index] = n
	return nil
}

func (f *fakeDatapath) RemoveNIC(index int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.nics, index)
	return nil
}

func (f *fakeDatapath) NICs() (list []datapath.NIC, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nics {
		list = append(list, n)
	}
	return list, nil
}

func (f *fakeDatapath) SetTunnel(t datapath.Tunnel) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tunnel = t
	return nil
}

func (f *fakeDatapath) AddEndpoint(e datapath.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endpoints = append(f.endpoints, e)
	return nil
}

func (f *fakeDatapath) RemoveEndpoint(e datapath.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endpoints = slices.DeleteFunc(f.endpoints, func(o datapath.Endpoint) bool {
		return (e.IfIndex == 0 || o.IfIndex == e.IfIndex) &&
			(len(e.Addrs) == 0 || slices.ContainsFunc(o.Addrs, func(a netip.Addr) bool { return slices.Contains(e.Addrs, a) }))
	})
	return nil
}

func (f *fakeDatapath) Endpoints() ([]datapath.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.endpoints), nil
}

func (f *fakeDatapath) SetServices(entries []service.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets++
	if f.failServices > 0 {
		f.failServices--
		return errFake
	}
	f.entries = entries
	for _, e := range entries {
		if e.Port.Name == f.refuse {
			return fmt.Errorf("set services: %w", errors.Join(&services.Refused{Port: e.Port, Err: errFake}))
		}
	}
	return nil
}

func (f *fakeDatapath) SetRoutes(routes []datapath.Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes = routes
	return nil
}

func (f *fakeDatapath) SetPeers(peers []datapath.Peer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers = peers
	return nil
}

func (f *fakeDatapath) Drops() ([]datapath.Drop, error) { return nil, nil }

func (f *fakeDatapath) Frontends() []datapath.Frontend {
	f.mu.Lock()
	defer f.mu.Unlock()
	return make([]datapath.Frontend, len(f.entries))
}

func (f *fakeDatapath) look(see func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	see()
}
