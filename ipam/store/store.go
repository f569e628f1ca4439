// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/ipam/flock"
)

// Where the stores are.
const (
	PodLeases  = "/run/patchbay/leases.db"         // not durable
	NodeLeases = "/var/lib/patchbay/nodeleases.db" // durable: nodes' and VMs'
)

// defaultWait is how long an operation waits for others.
const defaultWait = 2 * time.Second

// Options of a store. The zero value suits pods' leases.
type Options struct {
	// Durable leases outlive the boot, and every change is synced to the disk.
	// Without it a change survives the process, not a power cut, which ends
	// all pods anyway.
	Durable bool
	// Wait is how long an operation waits for others; zero: 2 s.
	Wait time.Duration
	// InUse lists the addresses on the node's links, with the host end's name.
	// It is called when the database was lost.
	InUse func() (map[netip.Addr]string, error)
	// Damaged is told what was set aside.
	Damaged func(error)
}

// Store is the leases of a file. It keeps nothing open and may be used
// concurrently. All methods return an error that matches ErrBusy if others
// kept the store locked for too long.
type Store struct {
	path    string
	lock    *flock.Lock
	options Options
	now     func() (instant, error)
}

// New returns the store at path. The file is made when it is first used.
func New(path string, options Options) *Store {
	if options.Wait == 0 {
		options.Wait = defaultWait
	}
	return &Store{path: path, lock: flock.New(path + ".lock"), options: options, now: now}
}

func now() (instant, error) {
	id, err := boot.ID()
	if err != nil {
		return instant{}, err
	}
	uptime, err := boot.Uptime()
	if err != nil {
		return instant{}, err
	}
	return instant{bootID: id, uptime: uptime, wall: time.Now().UTC()}, nil
}

func (s *Store) damaged(err error) {
	if s.options.Damaged != nil {
		s.options.Damaged(err)
	}
}

// Path returns where the store is.
func (s *Store) Path() string { return s.path }

// Contents is all that a store knows.
type Contents struct {
	Leases   []Lease // by key; those with a lost record are marked as damaged
	Resting  []Resting
	Reserved []Reserved
	Early    uint64 // addresses given before their cool-down was over, in all
}

// Resting is a freed address.
type Resting struct {
	Addr   netip.Addr
	Rested time.Duration
}

// Reserved is an address that a link has, but no lease.
type Reserved struct {
	Addr netip.Addr
	Link string
}

// List returns the contents.
func (s *Store) List() (Contents, error) {
	var c Contents
	err := s.transact(func(t *tables) error {
		c = Contents{Early: t.number(metaEarly)}
		leases, err := s.allLeases(t)
		if err != nil {
			return err
		}
		c.Leases = leases
		for a, value := range t.eachAddress() {
			if since, ok := restingSince(value); ok {
				c.Resting = append(c.Resting, Resting{Addr: a, Rested: max(0, t.now.uptime-since)})
			} else if len(value) > 0 && value[0] == useReserved {
				c.Reserved = append(c.Reserved, Reserved{Addr: a, Link: string(value[1:])})
			}
		}
		return nil
	})
	return c, err
}

// Find returns the lease of an attachment, and whether there is one.
func (s *Store) Find(key Key) (lease Lease, found bool, err error) {
	err = s.transact(func(t *tables) error {
		lease, found, err = s.find(t, key)
		return err
	})
	return lease, found, err
}

// Release ends the lease of an attachment: its addresses begin to rest. A
// generation other than zero releases that lease only, not a later one of the
// same key. It returns the lease that it ended and whether there was one.
func (s *Store) Release(key Key, generation uint64) (lease Lease, found bool, err error) {
	err = s.transact(func(t *tables) error {
		lease, found, err = s.release(t, key, generation)
		return err
	})
	return lease, found, err
}

// ReleaseAll is Release for several leases, by their generations, at once.
func (s *Store) ReleaseAll(leases map[Key]uint64) error {
	if len(leases) == 0 {
		return nil
	}
	return s.transact(func(t *tables) error {
		for key, generation := range leases {
			if _, _, err := s.release(t, key, generation); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) release(t *tables, key Key, generation uint64) (Lease, bool, error) {
	lease, found, err := s.find(t, key)
	if err != nil || !found || generation != 0 && lease.Generation > generation {
		return lease, false, err
	}
	return lease, true, t.end(lease)
}

// End marks the lease of an attachment as ended: it holds its addresses until it is
// released. It returns the container's leases that have a readable record, those
// of its other interfaces included.
func (s *Store) End(key Key) (of []Lease, err error) {
	err = s.transact(func(t *tables) error {
		lease, found, err := s.find(t, key)
		if err != nil {
			return err
		}
		if found && !lease.Damaged && !lease.Ended {
			lease.Ended = true
			if err := t.record(lease); err != nil {
				return err
			}
		}
		of = t.ofContainer(key.ContainerID)
		return nil
	})
	return of, err
}

// OfContainer returns the leases of all interfaces of a container that have a
// readable record.
func (s *Store) OfContainer(containerID string) (leases []Lease, err error) {
	err = s.transact(func(t *tables) error {
		leases = t.ofContainer(containerID)
		return nil
	})
	return leases, err
}

func (t *tables) ofContainer(containerID string) (leases []Lease) {
	prefix := Key{ContainerID: containerID}.bytes()
	cursor := t.leases.Cursor()
	for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		if l, err := decodeRecord(k, v); err == nil {
			leases = append(leases, l)
		}
	}
	return leases
}

// Free returns how many addresses of a pool an allocation could get now, the
// rested ones included, at most limit.
func (s *Store) Free(pool ipam.Pool, rest ipam.Rest, limit uint64) (free uint64, err error) {
	err = s.transact(func(t *tables) error {
		free = pool.Size()
		for a := range t.eachAddress() {
			if !pool.Contains(a) {
				continue
			}
			use, err := t.use(a)
			if err != nil {
				return err
			}
			if use.State == ipam.Held || use.Rested < rest.Minimum {
				free--
			}
		}
		return nil
	})
	return min(free, limit), err
}

// find returns a key's lease: from its record, or what the address table knows
// of it if the record is lost.
func (s *Store) find(t *tables, key Key) (Lease, bool, error) {
	value := t.leases.Get(key.bytes())
	if value == nil && t.number(metaSuspect) == 0 {
		return Lease{}, false, nil
	}
	if value != nil {
		lease, err := decodeRecord(key.bytes(), value)
		if err == nil {
			return lease, true, nil
		}
		if err := s.setRecordAside(t, key, value, err); err != nil {
			return Lease{}, false, err
		}
	}
	addrs := t.ownedBy(key)
	lost := t.damaged.Get(key.bytes()) != nil || len(addrs) > 0
	return Lease{Key: key, Addrs: addrs, Damaged: true}, lost, nil
}

// setRecordAside moves an unreadable record out of the way. Its addresses stay
// held.
func (s *Store) setRecordAside(t *tables, key Key, value []byte, cause error) error {
	s.damaged(&RecordError{Key: key, Err: cause})
	if err := t.damaged.Put(key.bytes(), slices.Clone(value)); err != nil {
		return err
	}
	if err := t.leases.Delete(key.bytes()); err != nil {
		return err
	}
	return t.putNumber(metaSuspect, 1)
}

// allLeases returns every lease, the damaged ones at the end.
func (s *Store) allLeases(t *tables) ([]Lease, error) {
	type broken struct {
		key   Key
		value []byte
		err   error
	}
	var leases []Lease
	var lost []broken
	err := t.leases.ForEach(func(k, v []byte) error {
		lease, err := decodeRecord(k, v)
		if err != nil {
			lost = append(lost, broken{parseKey(k), v, err})
			return nil
		}
		leases = append(leases, lease)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, b := range lost {
		if err := s.setRecordAside(t, b.key, b.value, b.err); err != nil {
			return nil, err
		}
	}
	err = t.damaged.ForEach(func(k, _ []byte) error {
		key := parseKey(k)
		leases = append(leases, Lease{Key: key, Addrs: t.ownedBy(key), Damaged: true})
		return nil
	})
	return leases, err
}

// end frees a lease's addresses and forgets it.
func (t *tables) end(l Lease) error {
	for _, a := range l.Addrs {
		if err := t.rest(a, t.now.uptime); err != nil {
			return err
		}
	}
	t.changed = true
	if err := t.leases.Delete(l.Key.bytes()); err != nil {
		return err
	}
	return t.damaged.Delete(l.Key.bytes())
}

// RecordError tells of a lease whose record was set aside.
type RecordError struct {
	Key Key
	Err error
}

// Error names the lease and what is wrong with its record.
func (e *RecordError) Error() string {
	return "lease " + e.Key.String() + " is set aside, its addresses stay reserved: " + e.Err.Error()
}

// Unwrap returns what is wrong with the record.
func (e *RecordError) Unwrap() error { return e.Err }
