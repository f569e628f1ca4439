// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// The lock file holds the database's checksum, as of its last close: bbolt
// checks its meta pages only, and may walk in circles over a broken one. A
// process that changes the database marks the sum as open first, so one killed
// meanwhile leaves no sum behind rather than a wrong one.
//
//	state (1 byte), CRC-32C of the whole database (4 bytes)
const (
	sumOpen   = 'O' // a change was begun and not finished: trust bbolt's own order of writes
	sumClosed = 'C'
	sumLength = 5
)

// checkSum compares the database with its sum. The error matches errDamaged.
func (s *Store) checkSum(lockFile *os.File) error {
	var held [sumLength]byte
	if n, _ := lockFile.ReadAt(held[:], 0); n < sumLength || held[0] != sumClosed {
		return nil
	}
	sum, err := s.sum()
	if err != nil {
		return err
	}
	if want := binary.BigEndian.Uint32(held[1:]); sum != want {
		return fmt.Errorf("%w: checksum %08x, want %08x", errDamaged, sum, want)
	}
	return nil
}

// sum reads the database piece by piece: a buffer for all of it would be the most
// that a CNI binary touches.
func (s *Store) sum() (uint32, error) {
	file, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, err = io.Copy(sum, file)
	return sum.Sum32(), err
}

// markOpen says that the database is about to change.
func (s *Store) markOpen(lockFile *os.File) error {
	return s.writeSum(lockFile, sumOpen, 0)
}

// markClosed writes the sum of a database that has been closed.
func (s *Store) markClosed(lockFile *os.File) error {
	sum, err := s.sum()
	if err != nil {
		return err
	}
	return s.writeSum(lockFile, sumClosed, sum)
}

func (s *Store) writeSum(lockFile *os.File, state byte, sum uint32) error {
	_, err := lockFile.WriteAt(binary.BigEndian.AppendUint32([]byte{state}, sum), 0)
	if s.options.Durable {
		err = errors.Join(err, lockFile.Sync())
	}
	if err != nil {
		return fmt.Errorf("note checksum of %s: %w", s.path, err)
	}
	return nil
}
