// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
)

// Filter says which packets are wanted: those that all of its terms match. The
// zero Filter wants all.
type Filter struct{ terms []term }

type term struct {
	not   bool
	match func(frame []byte, h headers.Header) bool
}

// ParseFilter reads a filter: terms with "and" between them, each with or
// without "not" before it. A term is "host ADDRESS", "net PREFIX", "port
// NUMBER", or one of tcp, udp, sctp, icmp, arp, ip, ip6.
func ParseFilter(text string) (Filter, error) {
	var f Filter
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		if words[i] == "and" {
			continue
		}
		var t term
		if words[i] == "not" && i+1 < len(words) {
			t.not = true
			i++
		}
		kind, argument := words[i], ""
		if slices.Contains([]string{"host", "net", "port"}, kind) {
			if i++; i >= len(words) {
				return Filter{}, fmt.Errorf("filter %q: %s of what?", text, kind)
			}
			argument = words[i]
		}
		match, err := parseTerm(kind, argument)
		if err != nil {
			return Filter{}, fmt.Errorf("filter %q: %w", text, err)
		}
		t.match = match
		f.terms = append(f.terms, t)
	}
	return f, nil
}

func parseTerm(kind, argument string) (func([]byte, headers.Header) bool, error) {
	protocols := map[string][]headers.Protocol{
		"tcp": {headers.TCP}, "udp": {headers.UDP}, "sctp": {headers.SCTP}, "icmp": {headers.ICMP, headers.ICMPv6},
	}
	types := map[string]uint16{"arp": 0x0806, "ip": 0x0800, "ip6": 0x86dd}
	switch kind {
	case "host":
		addr, err := netip.ParseAddr(argument)
		return func(frame []byte, h headers.Header) bool {
			return h.Src.Addr() == addr || h.Dst.Addr() == addr || names(frame, addr)
		}, err
	case "net":
		p, err := netip.ParsePrefix(argument)
		return func(_ []byte, h headers.Header) bool { return p.Contains(h.Src.Addr()) || p.Contains(h.Dst.Addr()) }, err
	case "port":
		n, err := strconv.ParseUint(argument, 10, 16)
		return func(_ []byte, h headers.Header) bool {
			return h.Src.Port() == uint16(n) || h.Dst.Port() == uint16(n)
		}, err
	}
	if list, ok := protocols[kind]; ok {
		return func(_ []byte, h headers.Header) bool { return h.Src.IsValid() && slices.Contains(list, h.Proto) }, nil
	}
	if number, ok := types[kind]; ok {
		return func(frame []byte, _ headers.Header) bool { return etherType(frame) == number }, nil
	}
	return nil, fmt.Errorf("%q is no term", kind)
}

// names tells whether an ARP packet is about an address.
func names(frame []byte, addr netip.Addr) bool {
	if etherType(frame) != 0x0806 || len(frame) < 42 || !addr.Is4() {
		return false
	}
	a := addr.As4()
	return [4]byte(frame[28:32]) == a || [4]byte(frame[38:42]) == a
}

func etherType(frame []byte) uint16 {
	if len(frame) < 14 {
		return 0
	}
	return binary.BigEndian.Uint16(frame[12:])
}

// Match tells whether a frame is wanted.
func (f Filter) Match(frame []byte) bool {
	if len(f.terms) == 0 {
		return true
	}
	h := headers.Read(frame)
	for _, t := range f.terms {
		if t.match(frame, h) == t.not {
			return false
		}
	}
	return true
}
