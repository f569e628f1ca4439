// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"

	"github.com/patchbay-net/patchbay/ipam"
)

// schema is the version of the tables. A store of another one is refused, not
// taken for damaged.
const schema = 1

// instant is when a transaction happens.
type instant struct {
	bootID string
	uptime time.Duration
	wall   time.Time
}

// tables are the buckets of one transaction.
//
//	leases     key → record
//	damaged    key → record that could not be read
//	addresses  address → use: 'H' key, 'R' uptime of the release, 'L' link
//	cursors    pool → the address last chosen
//	owners     owner → the addresses that it had last
//	meta       schema, boot, generation, early, suspect
type tables struct {
	now                                               instant
	leases, damaged, addresses, cursors, owners, meta *bbolt.Bucket
	changed                                           bool
}

// The first byte of an address's use. One that is none of these counts as held.
const (
	useHeld     = 'H' // by the attachment whose key follows
	useResting  = 'R' // since the uptime that follows
	useReserved = 'L' // by the link whose name follows; its lease was lost
)

// Keys of the meta table.
const (
	metaSchema     = "schema"
	metaBoot       = "boot"
	metaGeneration = "generation" // of the last lease
	metaEarly      = "early"      // addresses given before their cool-down was over
	metaSuspect    = "suspect"    // records were lost: addresses may have owners without one
)

func (t *tables) buckets() map[string]**bbolt.Bucket {
	return map[string]**bbolt.Bucket{
		"leases": &t.leases, "damaged": &t.damaged, "addresses": &t.addresses, "cursors": &t.cursors, "owners": &t.owners, "meta": &t.meta,
	}
}

// makeTables makes the buckets of a new database.
func makeTables(tx *bbolt.Tx, now func() (instant, error)) (*tables, error) {
	at, err := now()
	if err != nil {
		return nil, err
	}
	t := &tables{now: at}
	for name, bucket := range t.buckets() {
		if *bucket, err = tx.CreateBucket([]byte(name)); err != nil {
			return nil, fmt.Errorf("create table %s: %w", name, err)
		}
	}
	return t, errors.Join(t.putNumber(metaSchema, schema), t.meta.Put([]byte(metaBoot), []byte(at.bootID)))
}

// openTables finds the buckets of a database. Its errors match errDamaged
// where one is missing.
func openTables(tx *bbolt.Tx, now func() (instant, error)) (*tables, error) {
	at, err := now()
	if err != nil {
		return nil, err
	}
	t := &tables{now: at}
	for name, bucket := range t.buckets() {
		*bucket = tx.Bucket([]byte(name))
		if *bucket == nil && name == "owners" { // a store of before there were any
			if *bucket, err = tx.CreateBucket([]byte(name)); err != nil {
				return nil, fmt.Errorf("create table %s: %w", name, err)
			}
		}
		if *bucket == nil {
			return nil, fmt.Errorf("%w: no table %s", errDamaged, name)
		}
	}
	switch v := t.number(metaSchema); v {
	case schema:
	case 0:
		return nil, fmt.Errorf("%w: no schema", errDamaged)
	default:
		return nil, fmt.Errorf("lease store has schema %d, this program knows %d", v, schema)
	}
	return t, nil
}

func (t *tables) number(name string) uint64 {
	if b := t.meta.Get([]byte(name)); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (t *tables) putNumber(name string, n uint64) error {
	t.changed = true
	return t.meta.Put([]byte(name), binary.BigEndian.AppendUint64(nil, n))
}

// nextGeneration returns a number above all given out in this boot, also by a
// store that was lost since: the uptime is its floor.
func (t *tables) nextGeneration() (uint64, error) {
	next := max(t.number(metaGeneration)+1, uint64(t.now.uptime.Milliseconds()))
	return next, t.putNumber(metaGeneration, next)
}

// use returns how an address stands.
func (t *tables) use(a netip.Addr) (ipam.Use, error) {
	value := t.addresses.Get(a.AsSlice())
	if value == nil {
		return ipam.Use{}, nil
	}
	if since, ok := restingSince(value); ok {
		return ipam.Use{State: ipam.Resting, Rested: max(0, t.now.uptime-since)}, nil
	}
	return ipam.Use{State: ipam.Held}, nil
}

func restingSince(value []byte) (time.Duration, bool) {
	if len(value) != 9 || value[0] != useResting {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint64(value[1:])), true
}

func (t *tables) hold(a netip.Addr, key Key) error {
	t.changed = true
	return t.addresses.Put(a.AsSlice(), append([]byte{useHeld}, key.bytes()...))
}

// rest frees an address: it rests from the given uptime on.
func (t *tables) rest(a netip.Addr, since time.Duration) error {
	t.changed = true
	return t.addresses.Put(a.AsSlice(), binary.BigEndian.AppendUint64([]byte{useResting}, uint64(since)))
}

// reserve holds addresses for links whose leases were lost.
func (t *tables) reserve(links map[netip.Addr]string) error {
	for a, link := range links {
		if t.addresses.Get(a.AsSlice()) != nil {
			continue // its lease was not lost
		}
		if err := t.addresses.Put(a.AsSlice(), append([]byte{useReserved}, link...)); err != nil {
			return err
		}
	}
	return t.putNumber(metaSuspect, 1)
}

// ownedBy lists the addresses that a key holds by the address table alone: by
// its name, or by its link's.
func (t *tables) ownedBy(key Key) []netip.Addr {
	held := append([]byte{useHeld}, key.bytes()...)
	reserved := append([]byte{useReserved}, key.Link()...)
	var addrs []netip.Addr
	for a, value := range t.eachAddress() {
		if bytes.Equal(value, held) || bytes.Equal(value, reserved) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// eachAddress walks the address table. Nothing may be changed meanwhile.
func (t *tables) eachAddress() func(yield func(netip.Addr, []byte) bool) {
	return func(yield func(netip.Addr, []byte) bool) {
		cursor := t.addresses.Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			if a, ok := netip.AddrFromSlice(k); ok && !yield(a, v) {
				return
			}
		}
	}
}

// enterBoot ends what an earlier boot left: leases, unless the store is
// durable, and the counting of rests, which starts anew.
func (t *tables) enterBoot(durable bool) error {
	if string(t.meta.Get([]byte(metaBoot))) == t.now.bootID {
		return nil
	}
	var ended []netip.Addr
	for a, value := range t.eachAddress() {
		if _, ok := restingSince(value); ok || !durable {
			ended = append(ended, a)
		}
	}
	for _, a := range ended {
		if err := t.rest(a, 0); err != nil {
			return err
		}
	}
	if !durable {
		if err := errors.Join(empty(t.leases), empty(t.damaged), t.putNumber(metaSuspect, 0)); err != nil {
			return err
		}
	}
	t.changed = true
	return t.meta.Put([]byte(metaBoot), []byte(t.now.bootID))
}

func empty(b *bbolt.Bucket) error {
	var keys [][]byte
	if err := b.ForEach(func(k, _ []byte) error { keys = append(keys, k); return nil }); err != nil {
		return err
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
