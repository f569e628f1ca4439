// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store/seal"
)

// ErrBusy is returned when the store stayed locked for the whole wait.
var ErrBusy = errors.New("lease store is busy")

// errDamaged is matched by errors of a database that can't be read.
var errDamaged = errors.New("damaged database")

// open opens the database, which must be there and hold our tables. Errors
// that say that its content is broken match errDamaged.
func (s *Store) open() (db *bbolt.DB, err error) {
	defer recoverDamage(&err)
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Size() == 0 {
		return nil, fmt.Errorf("%w: empty file", errDamaged)
	}
	db, err = s.openAs(s.path)
	if err == nil || errors.Is(err, ErrBusy) {
		return db, err
	}
	if isSystemError(err) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", errDamaged, err)
}

func (s *Store) openAs(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      s.options.Wait,
		NoSync:       !s.options.Durable,
		NoGrowSync:   !s.options.Durable,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s", ErrBusy, path)
	}
	return db, err
}

// isSystemError reports whether the kernel refused something: that says
// nothing about the file's content.
func isSystemError(err error) bool {
	_, isPath := errors.AsType[*fs.PathError](err)
	_, isErrno := errors.AsType[syscall.Errno](err)
	return isPath || isErrno
}

// recoverDamage turns a panic over broken pages into an error.
func recoverDamage(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errDamaged, r)
	}
}

// create makes the database with empty tables beside its place, fills it by
// fill and renames it. The caller has the lock.
func (s *Store) create(fill func(*tables) error) error {
	temp := s.path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := s.openAs(temp)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		t, err := makeTables(tx, s.now)
		if err != nil {
			return err
		}
		return fill(t)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return s.rename(temp, s.path)
}

// rename renames a file, for good in a durable store.
func (s *Store) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if !s.options.Durable {
		return nil
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// setAside gives the broken database another name and begins a new one, with
// every lease whose record can still be read, and every other address still
// found on a link reserved.
func (s *Store) setAside(cause error) error {
	aside := s.path + ".damaged"
	s.damaged(fmt.Errorf("%s is kept as %s and begun anew: %w", s.path, aside, cause))
	leases, err := salvage(s.path)
	if err != nil {
		return err
	}
	inUse := map[netip.Addr]string{}
	if s.options.InUse != nil {
		if inUse, err = s.options.InUse(); err != nil {
			return fmt.Errorf("list addresses in use: %w", err)
		}
	}
	// The new database is complete before the old one goes: a kill between the
	// two must not leave the place empty, which would look like the first start.
	if err := s.link(s.path, aside); err != nil {
		return err
	}
	return s.create(func(t *tables) error {
		return errors.Join(t.restore(leases, s.options.Durable), t.reserve(inUse))
	})
}

// link gives the file at from a second name, replacing what has it.
func (s *Store) link(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(from, to)
}

// transact runs f in one transaction under the lock, and commits if f changed
// something. A broken database is set aside, once, and f run again.
func (s *Store) transact(f func(*tables) error) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("lease store %s: %w", s.path, err)
	}
	lockFile, err := s.lock.Take(flock.Exclusive, s.options.Wait)
	if errors.Is(err, flock.ErrTimeout) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return err
	}
	defer lockFile.Close()
	sum := seal.Seal{Path: s.path, Note: lockFile, Sync: s.options.Durable}
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		err := sum.Break()
		if err == nil {
			err = s.create(func(*tables) error { return nil })
		}
		if err != nil {
			return fmt.Errorf("create lease store %s: %w", s.path, err)
		}
	}
	err = s.once(sum, f)
	if !errors.Is(err, errDamaged) {
		return err
	}
	if err := errors.Join(sum.Break(), s.setAside(err)); err != nil {
		return fmt.Errorf("set aside lease store %s: %w", s.path, err)
	}
	return s.once(sum, f)
}

// once opens, runs f and closes.
func (s *Store) once(sum seal.Seal, f func(*tables) error) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a mapped file cut short faults
	if err := sum.Check(); errors.Is(err, seal.ErrBroken) {
		return fmt.Errorf("%w: %w", errDamaged, err)
	} else if err != nil {
		return err
	}
	db, err := s.open()
	if err != nil {
		if errors.Is(err, errDamaged) || errors.Is(err, ErrBusy) {
			return err
		}
		return fmt.Errorf("open lease store %s: %w", s.path, err)
	}
	changed, err := s.run(db, sum, f)
	if errors.Is(err, errDamaged) {
		return err // closing would wait for the transaction that a panic left open
	}
	if err := errors.Join(err, db.Close()); err != nil || !changed {
		return err
	}
	return sum.Close()
}

// run runs f in a transaction and reports whether it changed the database.
func (s *Store) run(db *bbolt.DB, sum seal.Seal, f func(*tables) error) (changed bool, err error) {
	defer recoverDamage(&err)
	tx, err := db.Begin(true)
	if err != nil {
		return false, fmt.Errorf("begin on lease store %s: %w", s.path, err)
	}
	t, err := openTables(tx, s.now)
	if err == nil {
		err = t.enterBoot(s.options.Durable)
	}
	if err == nil {
		err = f(t)
	}
	if err != nil || !t.changed {
		return false, errors.Join(err, tx.Rollback())
	}
	if err := sum.Break(); err != nil {
		return false, errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("commit to lease store %s: %w", s.path, err)
	}
	return true, nil
}
