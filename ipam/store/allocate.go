// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// ErrPortHeld is matched by Allocate's error if another lease has a host port
// that is asked for.
var ErrPortHeld = errors.New("host port is in use")

// Request is what Allocate gives addresses for.
type Request struct {
	Pools     []ipam.Pool  // one address from each
	Requested []netip.Addr // these and no others; at most one per pool
	Rest      ipam.Rest
	Static    map[netip.Addr]string // addresses that are one owner's, and nobody else's
	Avoid     []netip.Addr          // not these: another machine has them
	Lease     Lease                 // key and what is to be recorded; the rest is filled in
}

// Allocate gives one address from each pool, or none and an error: ipam's
// ErrExhausted, ErrHeld, ErrResting, ErrOutside (also for the owner's static
// address), or ErrInvalid; or ErrPortHeld. An attachment
// that has a lease which fits the request keeps it, so that an ADD can be made
// again after a kill; one that doesn't fit is ended first.
func (s *Store) Allocate(r Request) (lease Lease, err error) {
	wanted, err := ipam.Assign(r.Pools, r.Requested)
	if err != nil {
		return Lease{}, err
	}
	err = s.transact(func(t *tables) error {
		if err := s.checkPorts(t, r.Lease); err != nil {
			return err
		}
		lease = r.Lease
		held, found, err := s.find(t, r.Lease.Key)
		switch {
		case err != nil:
			return err
		case found && fits(held.Addrs, r.Pools, wanted) && !r.avoids(held.Addrs):
			lease.Addrs, err = ipam.Assign(r.Pools, held.Addrs)
		case found:
			err = errors.Join(t.end(held), t.choose(&lease, r, wanted))
		default:
			err = t.choose(&lease, r, wanted)
		}
		if err != nil {
			return err
		}
		lease, err = t.put(lease)
		return err
	})
	if err != nil {
		return Lease{}, err
	}
	return lease, nil
}

// checkPorts looks for another lease that has one of the ports.
func (s *Store) checkPorts(t *tables, wanted Lease) error {
	if len(wanted.Ports) == 0 {
		return nil
	}
	leases, err := s.allLeases(t)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.Key == wanted.Key || l.Ended {
			continue
		}
		for _, p := range wanted.Ports {
			if slices.ContainsFunc(l.Ports, p.Overlaps) {
				return fmt.Errorf("%w: %s port %d, by %s (pod %s/%s)", ErrPortHeld, p.Protocol, p.HostPort, l.Key, l.PodNamespace, l.PodName)
			}
		}
	}
	return nil
}

// choose picks one address for each pool.
func (t *tables) choose(l *Lease, r Request, wanted []netip.Addr) error {
	l.Addrs = make([]netip.Addr, len(r.Pools))
	look, err := t.lookFor(l.Owner, r)
	if err != nil {
		return err
	}
	for i, pool := range r.Pools {
		want := wanted[i]
		if !want.IsValid() {
			if err := r.checkStatic(l.Owner, pool); err != nil {
				return err
			}
			want = t.own(l.Owner, pool, r, look)
		}
		choice, err := t.chooseOne(pool, want, r.Rest, look)
		if err != nil {
			return err
		}
		if choice.Early {
			if err := t.putNumber(metaEarly, t.number(metaEarly)+1); err != nil {
				return err
			}
		}
		l.Addrs[i] = choice.Addr
	}
	return nil
}

// chooseOne picks the wanted address of a pool, or else the next one, and
// moves the pool's cursor there.
func (t *tables) chooseOne(pool ipam.Pool, wanted netip.Addr, rest ipam.Rest, look ipam.Look) (ipam.Choice, error) {
	if wanted.IsValid() {
		return rest.Take(wanted, look)
	}
	cursor, _ := netip.AddrFromSlice(t.cursors.Get([]byte(pool.Name)))
	choice, err := pool.Next(cursor, rest, look)
	if err != nil {
		return ipam.Choice{}, err
	}
	return choice, t.cursors.Put([]byte(pool.Name), choice.Addr.AsSlice())
}

// put records a lease under a new generation and holds its addresses. It
// returns the lease with what the store filled in.
func (t *tables) put(l Lease) (Lease, error) {
	generation, err := t.nextGeneration()
	if err != nil {
		return Lease{}, err
	}
	l.Generation, l.BootID, l.Created, l.Damaged = generation, t.now.bootID, t.now.wall, false
	for _, a := range l.Addrs {
		if err := t.hold(a, l.Key); err != nil {
			return Lease{}, err
		}
	}
	return l, errors.Join(t.record(l), t.damaged.Delete(l.Key.bytes()), t.remember(l))
}

// record writes a lease's record.
func (t *tables) record(l Lease) error {
	value, err := encodeRecord(l)
	if err != nil {
		return err
	}
	t.changed = true
	return t.leases.Put(l.Key.bytes(), value)
}

// fits reports whether held addresses are what a request would be given: one
// from each pool, the wanted ones among them.
func fits(held []netip.Addr, pools []ipam.Pool, wanted []netip.Addr) bool {
	if len(held) != len(pools) {
		return false
	}
	assigned, err := ipam.Assign(pools, held)
	if err != nil {
		return false
	}
	for i, a := range assigned {
		if !a.IsValid() || wanted[i].IsValid() && wanted[i] != a {
			return false
		}
	}
	return true
}
