// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/ipam"
)

// GC ends the leases of a network whose attachments are not valid any more. For
// each it calls end, outside of any transaction, which is to take away what the
// lease stands for; if that fails, the lease stays. It goes on after errors and
// returns them joined. An ADD must not run meanwhile, its lease could be ended.
//
// A damaged lease doesn't know its network: it ends if it is not valid and its
// link is gone. So do reserved addresses, and addresses held by a key that has
// no record.
func (s *Store) GC(network string, valid []Key, end func(Lease) error) error {
	contents, err := s.List()
	if err != nil {
		return err
	}
	links, known, err := s.links()
	var problems []error
	if err != nil {
		problems = append(problems, err)
	}
	for _, l := range contents.Leases {
		if slices.Contains(valid, l.Key) || !l.Damaged && l.Network != network ||
			l.Damaged && (!known || slices.Contains(links, l.Key.Link())) {
			continue
		}
		if err := end(l); err != nil {
			problems = append(problems, err)
			continue
		}
		if _, _, err := s.Release(l.Key, l.Generation); err != nil {
			problems = append(problems, err)
		}
	}
	if known {
		problems = append(problems, s.repair(links))
	}
	return errors.Join(problems...)
}

// links lists the links that have pods' addresses, if the store can know.
func (s *Store) links() ([]string, bool, error) {
	if s.options.InUse == nil {
		return nil, false, nil
	}
	inUse, err := s.options.InUse()
	if err != nil {
		return nil, false, err
	}
	var links []string
	for _, link := range inUse {
		links = append(links, link)
	}
	return links, true, nil
}

// repair frees the addresses whose owner has neither a record nor a link.
func (s *Store) repair(links []string) error {
	return s.transact(func(t *tables) error {
		if t.number(metaSuspect) == 0 {
			return nil
		}
		var freed []netip.Addr
		suspect := uint64(0)
		for a, value := range t.eachAddress() {
			use, err := t.use(a)
			if err != nil {
				return err
			}
			switch {
			case use.State != ipam.Held || t.recorded(value):
			case slices.Contains(links, owningLink(value)):
				suspect = 1
			default:
				freed = append(freed, a)
			}
		}
		for _, a := range freed {
			if err := t.rest(a, t.now.uptime); err != nil {
				return err
			}
		}
		if k, _ := t.damaged.Cursor().First(); k != nil {
			suspect = 1
		}
		return t.putNumber(metaSuspect, suspect)
	})
}

// recorded reports whether the holder of an address has a lease, if only a
// damaged one.
func (t *tables) recorded(use []byte) bool {
	if len(use) == 0 || use[0] != useHeld {
		return false
	}
	return t.leases.Get(use[1:]) != nil || t.damaged.Get(use[1:]) != nil
}

// owningLink returns the name of the link that an address is held for.
func owningLink(use []byte) string {
	switch {
	case len(use) > 0 && use[0] == useHeld:
		return parseKey(use[1:]).Link()
	case len(use) > 0 && use[0] == useReserved:
		return string(use[1:])
	}
	return ""
}
