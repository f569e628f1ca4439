// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// recordStart opens the JSON of every record.
const recordStart = `{"version":`

// salvage finds the records in a file of any state by their checksums. Pages
// that were given up keep what they held, so it may find leases that ended:
// they hold their addresses until GC or DEL ends them again, which errs on the
// safe side.
func salvage(path string) ([]Lease, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("salvage leases: %w", err)
	}
	newest := map[Key]Lease{}
	for at := bytes.Index(text, []byte(recordStart)); at >= 0; {
		if l, ok := recordAt(text, at); ok && l.Generation >= newest[l.Key].Generation {
			newest[l.Key] = l
		}
		next := bytes.Index(text[at+1:], []byte(recordStart))
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return withoutClashes(newest), nil
}

// recordAt reads the record whose JSON begins at an offset.
func recordAt(text []byte, at int) (Lease, bool) {
	if at < sumSize {
		return Lease{}, false
	}
	decoder := json.NewDecoder(bytes.NewReader(text[at:]))
	var r record
	if decoder.Decode(&r) != nil || r.Version != recordVersion {
		return Lease{}, false
	}
	body := text[at : at+int(decoder.InputOffset())]
	sum := binary.BigEndian.Uint32(text[at-sumSize:])
	return r.Lease, sum == checksum(r.Key.bytes(), body)
}

// withoutClashes leaves out leases that a later one took an address from.
func withoutClashes(leases map[Key]Lease) []Lease {
	owners := map[netip.Addr]Lease{}
	for _, l := range leases {
		for _, a := range l.Addrs {
			if owner, ok := owners[a]; !ok || owner.Generation < l.Generation {
				owners[a] = l
			}
		}
	}
	var kept []Lease
	for _, l := range leases {
		clash := false
		for _, a := range l.Addrs {
			clash = clash || owners[a].Key != l.Key
		}
		if !clash {
			kept = append(kept, l)
		}
	}
	return kept
}

// restore puts salvaged leases into an empty database: those of this boot, or
// all of a durable one.
func (t *tables) restore(leases []Lease, durable bool) error {
	var last uint64
	for _, l := range leases {
		if !durable && l.BootID != t.now.bootID {
			continue
		}
		last = max(last, l.Generation)
		if err := errors.Join(t.record(l), t.remember(l)); err != nil {
			return err
		}
		for _, a := range l.Addrs {
			if err := t.hold(a, l.Key); err != nil {
				return err
			}
		}
	}
	return t.putNumber(metaGeneration, last)
}
