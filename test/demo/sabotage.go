// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"
)

// pinnedFrontends is the map of the datapath that the sabotage takes an entry
// out of.
const pinnedFrontends = "/sys/fs/bpf/patchbay/v1/maps/frontends"

// sabotage takes the entry of the LoadBalancer address, as reached from outside,
// out of the announcing node's map. Nothing else is touched: the demo must notice.
func (s *scene) sabotage() {
	var entries []struct{ Key []string }
	dump := s.owner.Exec(s, "bpftool", "-j", "map", "dump", "pinned", pinnedFrontends)
	if err := json.Unmarshal([]byte(dump), &entries); err != nil {
		s.Fatalf("sabotage: read %s: %v", pinnedFrontends, err)
	}
	want := frontendKey(s.vip)
	for _, e := range entries {
		key := bare(e.Key)
		if strings.HasPrefix(strings.Join(key, ""), want) {
			s.owner.Exec(s, "bpftool", append([]string{"map", "delete", "pinned", pinnedFrontends, "key", "hex"}, key...)...)
			s.step("sabotage: frontend %s is out of the map of %s", s.vip, s.owner.Name)
			return
		}
	}
	s.Fatalf("sabotage: no frontend %s among %d", s.vip, len(entries))
}

// frontendKey is how the key of an IPv4 address, port 80, TCP, as reached from
// outside, begins: address (v4-mapped), port, protocol, scope.
func frontendKey(vip netip.Addr) string {
	const tcp, external = 6, 1
	address := vip.As16()
	return hex.EncodeToString(append(address[:], 0, 80, tcp, external))
}

// bare drops the 0x before each byte.
func bare(key []string) []string {
	out := make([]string, len(key))
	for i, b := range key {
		out[i] = strings.TrimPrefix(b, "0x")
	}
	return out
}
