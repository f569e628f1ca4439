// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

// ErrDamaged is returned by LoadStore for a snapshot that is cut short, altered
// or of a version that this program can't read.
var ErrDamaged = errors.New("snapshot is damaged")

// A snapshot is the line snapshotMagic, records, and the SHA-256 of all before.
// A record is kind, encoding and payload, each length-prefixed by a uvarint.
const (
	snapshotMagic = "patchbay snapshot v1\n"
	encodingProto = "proto" // the object's own protobuf, which Kubernetes' kinds have
	encodingJSON  = "json"
)

// protoObject is what Kubernetes' own types generate.
type protoObject interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// Save writes all objects to path, replacing it whole: after a crash there is
// the old snapshot or the new one, never a mixture.
func (s *Store) Save(path string) error {
	if err := durable.Replace(path, s.write); err != nil {
		return fmt.Errorf("save snapshot %s: %w", path, err)
	}
	return nil
}

func (s *Store) write(f io.Writer) error {
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)
	if _, err := w.WriteString(snapshotMagic); err != nil {
		return err
	}
	for kind, objects := range s.byKind() {
		for _, obj := range objects {
			if err := writeRecord(w, kind, obj); err != nil {
				return fmt.Errorf("%s %s: %w", kind, KeyOf(obj), err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := f.Write(sum.Sum(nil))
	return err
}

// byKind copies the references out, so that no lock is held during I/O.
func (s *Store) byKind() map[Kind][]Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[Kind][]Object, len(s.kinds))
	for kind, sh := range s.kinds {
		out[kind] = slices.Collect(maps.Values(sh.objects))
	}
	return out
}

func writeRecord(w *bufio.Writer, kind Kind, obj Object) error {
	encoding, payload, err := encode(obj)
	if err != nil {
		return err
	}
	for _, field := range [][]byte{[]byte(kind), []byte(encoding), payload} {
		if _, err := w.Write(binary.AppendUvarint(nil, uint64(len(field)))); err != nil {
			return err
		}
		if _, err := w.Write(field); err != nil {
			return err
		}
	}
	return nil
}

func encode(obj Object) (encoding string, payload []byte, err error) {
	if p, ok := obj.(protoObject); ok {
		payload, err = p.Marshal()
		return encodingProto, payload, err
	}
	payload, err = json.Marshal(obj)
	return encodingJSON, payload, err
}

// LoadStore returns a store with the objects of the snapshot at path, none of
// their kinds synced. The store is never nil: without a snapshot it is empty,
// and with one that can't be read it is empty and the error wraps ErrDamaged or
// the cause.
func LoadStore(path string) (*Store, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return NewStore(), nil
	}
	if err != nil {
		return NewStore(), fmt.Errorf("load snapshot: %w", err)
	}
	s, err := decodeSnapshot(data)
	if err != nil {
		return NewStore(), fmt.Errorf("load snapshot %s: %w", path, err)
	}
	return s, nil
}

func decodeSnapshot(data []byte) (*Store, error) {
	body, err := verify(data)
	if err != nil {
		return nil, err
	}
	s := NewStore()
	for len(body) > 0 {
		var kind, encoding, payload []byte
		for _, field := range []*[]byte{&kind, &encoding, &payload} {
			if *field, body, err = cutField(body); err != nil {
				return nil, err
			}
		}
		if err := s.restore(Kind(kind), string(encoding), payload); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// verify checks frame and checksum, and returns the records.
func verify(data []byte) ([]byte, error) {
	if len(data) < len(snapshotMagic)+sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(data))
	}
	if !bytes.HasPrefix(data, []byte(snapshotMagic)) {
		return nil, fmt.Errorf("%w: it doesn't begin with %q", ErrDamaged, snapshotMagic)
	}
	end := len(data) - sha256.Size
	if sum := sha256.Sum256(data[:end]); !bytes.Equal(sum[:], data[end:]) {
		return nil, fmt.Errorf("%w: checksum differs", ErrDamaged)
	}
	return data[len(snapshotMagic):end], nil
}

func cutField(b []byte) (field, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, fmt.Errorf("%w: record is cut short", ErrDamaged)
	}
	b = b[size:]
	return b[:n], b[n:], nil
}

// restore takes in one record. A kind that this program doesn't know (any more)
// is passed over: the source brings what is needed.
func (s *Store) restore(kind Kind, encoding string, payload []byte) error {
	t, err := TypeOf(kind)
	if err != nil {
		return nil
	}
	obj := t.New()
	if err := decode(obj, encoding, payload); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, kind, err)
	}
	sh := s.shelf(kind)
	if sh.unconfirmed == nil {
		sh.unconfirmed = make(map[Key]struct{})
	}
	key := KeyOf(obj)
	sh.objects[key] = obj
	sh.unconfirmed[key] = struct{}{}
	return nil
}

func decode(obj Object, encoding string, payload []byte) error {
	switch encoding {
	case encodingProto:
		if p, ok := obj.(protoObject); ok {
			return p.Unmarshal(payload)
		}
	case encodingJSON:
		return json.Unmarshal(payload, obj)
	}
	return fmt.Errorf("encoding %q: not known for it", encoding)
}
