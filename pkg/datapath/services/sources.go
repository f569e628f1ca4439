// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/services/indexes"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// addSources gives each new list of source ranges an id of its own, so that a
// list is never seen half, and writes it.
func (s *Services) addSources(p *plan) error {
	var errs []error
	for _, w := range p.frontends {
		if w.entry == nil || len(w.entry.SourceRanges) == 0 {
			continue
		}
		text := sourcesText(w.entry.SourceRanges)
		if s.sources[text] != 0 {
			continue
		}
		id, err := s.addList(w.entry.SourceRanges)
		if err != nil {
			errs = append(errs, &Refused{w.entry.Port, fmt.Errorf("source ranges: %w", err)})
			continue
		}
		s.sources[text] = id
	}
	return errors.Join(errs...)
}

// addList writes a list under a new id, or nothing.
func (s *Services) addList(prefixes []netip.Prefix) (uint32, error) {
	id, err := s.sourceIDs.Alloc(1)
	if err != nil {
		return 0, err
	}
	for i, prefix := range prefixes {
		err := s.maps.SourceRanges.Update(rangeKey(id.Base, prefix), uint32(1), ebpf.UpdateAny)
		if err == nil {
			continue
		}
		for _, written := range prefixes[:i] {
			err = errors.Join(err, s.maps.SourceRanges.Delete(rangeKey(id.Base, written)))
		}
		s.sourceIDs.Release(id, s.clock())
		return 0, fmt.Errorf("write %s: %w", prefix, err)
	}
	return id.Base, nil
}

// unguarded tells whether an entry's source ranges could not be written: without
// them everybody would be let in.
func (s *Services) unguarded(e *service.Entry) bool {
	return e != nil && len(e.SourceRanges) > 0 && s.sources[sourcesText(e.SourceRanges)] == 0
}

// clearSources takes out the lists that no frontend names any more.
func (s *Services) clearSources() error {
	for text, id := range s.sources {
		if s.readers[id] > 0 {
			continue
		}
		for prefix := range strings.SplitSeq(text, " ") {
			if err := s.maps.SourceRanges.Delete(rangeKey(id, netip.MustParsePrefix(prefix))); err != nil {
				return fmt.Errorf("delete source range %s: %w", prefix, err)
			}
		}
		delete(s.sources, text)
		delete(s.readers, id)
		s.sourceIDs.Release(indexes.One(id), s.clock().Add(grace))
	}
	return nil
}

func rangeKey(id uint32, p netip.Prefix) objects.MapRangeKey {
	return objects.MapRangeKey{
		Prefixlen: 32 + objects.Bits(p), Ranges: id, Addr: objects.Addr(p.Masked().Addr()).B,
	}
}

// sourcesText is a list of ranges as one comparable value.
func sourcesText(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.Masked().String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), " ")
}
