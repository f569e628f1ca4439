// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

// lockWait is how long a change waits for others.
const lockWait = 2 * time.Second

// Store remembers the routes over a reboot. Whoever changes them opens the file,
// makes one change and closes it; nobody holds it open. The file is replaced
// whole, so a power cut leaves the old routes or the new ones; the ones before
// stay beside it, for a disk that forgets what it said was written.
//
// A record is a line: the CRC-32C of the rest in hexadecimal, a space, JSON.
type Store struct {
	Path string
	// Damaged is told what was dropped, if set.
	Damaged func(error)
}

// errDamaged is matched by what is told to Damaged.
var errDamaged = errors.New("damaged record of a custom route")

// List returns the records.
func (s Store) List() ([]Record, error) {
	var out []Record
	err := s.Change(func(records []Record) []Record {
		out = records
		return records
	})
	return out, err
}

// Change replaces the records by what f makes of them.
func (s Store) Change(f func([]Record) []Record) error {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return fmt.Errorf("custom routes: %w", err)
	}
	lock, err := flock.Take(s.Path+".lock", flock.Exclusive, lockWait)
	if err != nil {
		return fmt.Errorf("custom routes: %w", err)
	}
	defer lock.Close()
	before, whole, err := s.read()
	if err != nil {
		return fmt.Errorf("custom routes: %w", err)
	}
	after := slices.SortedFunc(slices.Values(f(slices.Clone(before))), compare)
	if whole && slices.Equal(before, after) {
		return nil
	}
	if err := s.write(after); err != nil {
		return fmt.Errorf("custom routes: %w", err)
	}
	return nil
}

// read returns the records, and whether the file held all that was written. Of
// a damaged file what can be read counts, and what the file before it has more.
func (s Store) read() (records []Record, whole bool, err error) {
	records, damage, err := readFile(s.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil || damage == nil {
		return records, true, err
	}
	earlier, _, err := readFile(s.previous())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	for _, r := range earlier {
		if !slices.ContainsFunc(records, func(o Record) bool { return o.Names(r.Interface, r.Dst) && o.Object == r.Object }) {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, compare)
	if s.Damaged != nil {
		s.Damaged(fmt.Errorf("%s: %w; %d routes are kept", s.Path, damage, len(records)))
	}
	return records, false, nil
}

func (s Store) previous() string { return s.Path + ".before" }

// write replaces the file; the one before keeps another name.
func (s Store) write(records []Record) error {
	if err := os.Remove(s.previous()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Link(s.Path, s.previous()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.Replace(s.Path, func(w io.Writer) error {
		for _, r := range records {
			line, err := encode(r)
			if err != nil {
				return err
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, endFormat, len(records))
		return err
	})
}

// endFormat is the last line: the number of records, so that a file cut short is noticed.
const endFormat = "end %d\n"

func encode(r Record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode route %s: %w", r.Route, err)
	}
	return fmt.Appendf(nil, "%08x %s\n", checksum(text), text), nil
}

func checksum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

// readFile returns what of a file is whole, and what isn't as damage.
func readFile(path string) (records []Record, damage, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	ended := false
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if lines.Text()+"\n" == fmt.Sprintf(endFormat, len(records)) {
			ended = true
			continue
		}
		r, err := decode(lines.Bytes())
		if err != nil || ended {
			damage = errors.Join(damage, fmt.Errorf("%w: %q", errDamaged, lines.Bytes()))
			continue
		}
		records = append(records, r)
	}
	if !ended {
		damage = errors.Join(damage, fmt.Errorf("%w: the end is missing", errDamaged))
	}
	return records, damage, nil
}

func decode(line []byte) (r Record, err error) {
	sum, text, ok := bytes.Cut(line, []byte(" "))
	if !ok || string(sum) != fmt.Sprintf("%08x", checksum(text)) {
		return Record{}, errDamaged
	}
	return r, json.Unmarshal(text, &r)
}
