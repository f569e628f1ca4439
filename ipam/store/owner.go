// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// The owners table keeps, of each owner, the addresses that it had last, in 16
// bytes each. It outlives the leases: a machine that is made anew gets its
// addresses back, as long as nobody else needed them.

// remember notes what an owner has.
func (t *tables) remember(l Lease) error {
	if l.Owner == "" {
		return nil
	}
	var value []byte
	for _, a := range l.Addrs {
		b := a.As16()
		value = append(value, b[:]...)
	}
	return t.owners.Put([]byte(l.Owner), value)
}

func parseOwned(value []byte) []netip.Addr {
	var addrs []netip.Addr
	for chunk := range slices.Chunk(value, 16) {
		if len(chunk) == 16 {
			addrs = append(addrs, netip.AddrFrom16([16]byte(chunk)).Unmap())
		}
	}
	return addrs
}

// lookFor tells how addresses stand for an owner: static ones of others and those
// to be avoided are held; those that others had last are given when nothing else
// is left.
func (t *tables) lookFor(owner string, r Request) (ipam.Look, error) {
	others := map[netip.Addr]bool{}
	err := t.owners.ForEach(func(k, v []byte) error {
		for _, a := range parseOwned(v) {
			if string(k) != owner {
				others[a] = true
			}
		}
		return nil
	})
	return func(a netip.Addr) (ipam.Use, error) {
		whose, static := r.Static[a]
		use, err := t.use(a)
		switch {
		case err != nil || use.State == ipam.Held:
		case static && whose != owner, slices.Contains(r.Avoid, a):
			use = ipam.Use{State: ipam.Held}
		case static, slices.Contains(parseOwned(t.owners.Get([]byte(owner))), a) && owner != "":
			use = ipam.Use{State: ipam.Resting, Rested: math.MaxInt64} // its own
		case others[a]:
			use = ipam.Use{State: ipam.Resting, Rested: r.Rest.Minimum}
		}
		return use, err
	}, err
}

// own returns the pool's address that is the owner's: a static one, else the last
// that it had, if it can be given.
func (t *tables) own(owner string, pool ipam.Pool, r Request, look ipam.Look) netip.Addr {
	if owner == "" {
		return netip.Addr{}
	}
	var mine []netip.Addr
	for a, whose := range r.Static {
		if whose == owner {
			mine = append(mine, a)
		}
	}
	slices.SortFunc(mine, netip.Addr.Compare)
	for _, a := range append(mine, parseOwned(t.owners.Get([]byte(owner)))...) {
		if use, err := look(a); err == nil && use.State != ipam.Held && pool.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// checkStatic returns an error if a static address of the owner's, of the pool's
// family, is in none of the pools: it would silently get another.
func (r Request) checkStatic(owner string, pool ipam.Pool) error {
	for a, whose := range r.Static {
		if owner != "" && whose == owner && a.Is4() == pool.Is4() &&
			!slices.ContainsFunc(r.Pools, func(p ipam.Pool) bool { return p.Contains(a) }) {
			return fmt.Errorf("static address of %s: %w: %s", owner, ipam.ErrOutside, a)
		}
	}
	return nil
}

func (r Request) avoids(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(r.Avoid, a) })
}

// Forget has an owner's last addresses be anybody's.
func (s *Store) Forget(owner string) error {
	return s.transact(func(t *tables) error {
		t.changed = true
		return t.owners.Delete([]byte(owner))
	})
}
