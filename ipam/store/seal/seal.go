// SPDX-License-Identifier: Apache-2.0

// Package seal keeps the checksum of a file in another one: of a database, as of
// its last close, in its lock file. Bbolt checks its meta pages only, and may walk
// in circles over a broken one. Who changes the file breaks the seal first, so that
// one killed meanwhile leaves none behind rather than a wrong one.
package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// ErrBroken is matched by Check's error if the file isn't what was sealed.
var ErrBroken = errors.New("checksum differs")

// Seal is a file's. In its note stand:
//
//	state (1 byte), CRC-32C of the whole file (4 bytes)
type Seal struct {
	Path string   // of the file
	Note *os.File // where the seal is kept; nobody else changes it meanwhile
	Sync bool     // the note outlives a power cut, as the file does
}

const (
	open   = 'O' // a change was begun and not finished: trust the file's own order of writes
	closed = 'C'
	length = 5
)

// Check compares the file with its seal, if it has one.
func (s Seal) Check() error {
	var held [length]byte
	if n, _ := s.Note.ReadAt(held[:], 0); n < length || held[0] != closed {
		return nil
	}
	sum, err := s.sum()
	if err != nil {
		return err
	}
	if want := binary.BigEndian.Uint32(held[1:]); sum != want {
		return fmt.Errorf("%w: %08x, want %08x", ErrBroken, sum, want)
	}
	return nil
}

// sum reads the file piece by piece: a buffer for all of it would be the most that
// a CNI binary touches.
func (s Seal) sum() (uint32, error) {
	file, err := os.Open(s.Path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, err = io.Copy(sum, file)
	return sum.Sum32(), err
}

// Break says that the file is about to change.
func (s Seal) Break() error { return s.write(open, 0) }

// Close seals the file as it is.
func (s Seal) Close() error {
	sum, err := s.sum()
	if err != nil {
		return err
	}
	return s.write(closed, sum)
}

func (s Seal) write(state byte, sum uint32) error {
	_, err := s.Note.WriteAt(binary.BigEndian.AppendUint32([]byte{state}, sum), 0)
	if s.Sync {
		err = errors.Join(err, s.Note.Sync())
	}
	if err != nil {
		return fmt.Errorf("note checksum of %s: %w", s.Path, err)
	}
	return nil
}
