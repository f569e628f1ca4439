// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// absentees knows which Services are really gone. If something could not be
// read at the start (a file cut in half), an owner that was never seen may be
// in there, and keeps its address.
type absentees struct {
	store *source.Store
	doubt bool                       // something was unreadable before all was read
	seen  map[loadbalancer.Name]bool // Services that were there since the start
	lost  map[netip.Addr]bool        // addresses whose records are unreadable
}

func newAbsentees(store *source.Store) *absentees {
	return &absentees{store: store, seen: map[loadbalancer.Name]bool{}, lost: map[netip.Addr]bool{}}
}

// observe takes an event of the stream in.
func (a *absentees) observe(ev source.Event) {
	if ev.Op == source.Problem && !a.store.Synced(kinds()...) {
		a.doubt = true
	}
	switch ev.Kind {
	case source.KindService:
		if ev.Op == source.Upsert {
			a.seen[loadbalancer.Name(ev.Key)] = true
		}
	case source.KindIPAllocation:
		if addr, err := v1alpha1.AllocationAddr(ev.Key.Name); err == nil {
			a.lost[addr] = ev.Op == source.Problem
		}
	}
}

// addrs returns the addresses whose records are unreadable: they may be given.
func (a *absentees) addrs() []netip.Addr {
	var addrs []netip.Addr
	for addr, lost := range a.lost {
		if lost {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

var errUnread = errors.New("the Service could not be read")

// services returns stand-ins for the owners of records that may be there.
func (a *absentees) services(known []loadbalancer.Record) []loadbalancer.Service {
	if !a.doubt {
		return nil
	}
	standIns := map[loadbalancer.Name]*loadbalancer.Service{}
	for _, record := range known {
		if record.State != loadbalancer.Active && record.State != loadbalancer.Reserved {
			continue
		}
		for _, owner := range record.Owners {
			if _, there := source.Get[*corev1.Service](a.store, source.KindService, source.Key(owner)); there || a.seen[owner] {
				continue
			}
			s := standIns[owner]
			if s == nil {
				s = &loadbalancer.Service{Name: owner, SharingKey: record.SharingKey, Err: errUnread}
				standIns[owner] = s
			}
			s.IPv4, s.IPv6 = s.IPv4 || record.Addr.Is4(), s.IPv6 || record.Addr.Is6()
		}
	}
	list := make([]loadbalancer.Service, 0, len(standIns))
	for _, s := range standIns {
		list = append(list, *s)
	}
	return list
}
