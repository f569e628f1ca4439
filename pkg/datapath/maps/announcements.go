// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Announcement is an address that this node answers for on a NIC.
type Announcement struct {
	Addr    netip.Addr
	IfIndex int
	Expires time.Duration // from now on; 0: never
}

// Announcements owns the map announced. The programs delete an entry when
// another node of the cluster claims its address.
type Announcements struct{ Map *ebpf.Map }

// Set makes the map hold exactly these, each with a new expiry.
func (m Announcements) Set(announcements []Announcement) error {
	want := make(map[objects.MapAnnouncedKey]objects.MapAnnounced, len(announcements))
	now := monotonic()
	for _, a := range announcements {
		value := objects.MapAnnounced{}
		if a.Expires > 0 {
			value.Expires = uint64(now + a.Expires)
		}
		want[objects.MapAnnouncedKey{Addr: objects.Addr(a.Addr), Ifindex: uint32(a.IfIndex)}] = value
	}
	if err := sync(m.Map, want, unordered); err != nil {
		return fmt.Errorf("announcements: %w", err)
	}
	return nil
}

// ErrNotAnnounced is returned by Renew for an address that has no entry: it was
// never announced, or another node has claimed it.
var ErrNotAnnounced = errors.New("not announced")

// Announce has an address answered for, until its expiry.
func (m Announcements) Announce(a Announcement) error { return m.update(a, ebpf.UpdateAny) }

// Renew gives an announcement a new expiry, if it is there still: one that a
// claim has ended is never made again by it. Then it returns ErrNotAnnounced.
func (m Announcements) Renew(a Announcement) error {
	err := m.update(a, ebpf.UpdateExist)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return ErrNotAnnounced
	}
	return err
}

func (m Announcements) update(a Announcement, flags ebpf.MapUpdateFlags) error {
	value := objects.MapAnnounced{}
	if a.Expires > 0 {
		value.Expires = uint64(monotonic() + a.Expires)
	}
	if err := m.Map.Update(a.key(), value, flags); err != nil {
		return fmt.Errorf("announce %s on link %d: %w", a.Addr, a.IfIndex, err)
	}
	return nil
}

// Withdraw ends an announcement, if it is there.
func (m Announcements) Withdraw(a Announcement) error {
	if err := m.Map.Delete(a.key()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("withdraw %s on link %d: %w", a.Addr, a.IfIndex, err)
	}
	return nil
}

// key is the address and its NIC; the expiry is no part of it.
func (a Announcement) key() objects.MapAnnouncedKey {
	return objects.MapAnnouncedKey{Addr: objects.Addr(a.Addr), Ifindex: uint32(a.IfIndex)}
}

// List returns what is announced now, sorted by address; Expires is what is
// left, and negative for what has expired.
func (m Announcements) List() ([]Announcement, error) {
	entries, err := read[objects.MapAnnouncedKey, objects.MapAnnounced](m.Map)
	if err != nil {
		return nil, fmt.Errorf("announcements: %w", err)
	}
	now := monotonic()
	var all []Announcement
	for key, value := range entries {
		a := Announcement{Addr: key.Addr.Netip(), IfIndex: int(key.Ifindex)}
		if value.Expires != 0 {
			a.Expires = time.Duration(value.Expires) - now
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Announcement) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// monotonic is the clock that the programs judge by.
func monotonic() time.Duration {
	var ts unix.Timespec
	// CLOCK_MONOTONIC is always there.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}
