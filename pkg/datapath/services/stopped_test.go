// SPDX-License-Identifier: Apache-2.0

package services

import (
	"net/netip"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// TestStoppedThoughRefused: a Service that has no room doesn't keep an endpoint
// of another from being told as stopped.
func TestStoppedThoughRefused(t *testing.T) {
	l := newLab(t)
	l.small(t, "slots", &l.maps.Slots, 5)
	s := l.open(t)
	told := 0
	s.OnStopped(func(map[netip.AddrPort]map[netip.AddrPort]bool) { told++ })
	dns := func(chosen ...string) service.Entry {
		e := entry("10.96.0.10:53", backends(chosen...)...)
		e.Frontend.Protocol = service.UDP
		return e
	}
	big := entry("10.96.0.99:80", backends("10.0.9.1:1", "10.0.9.2:1", "10.0.9.3:1", "10.0.9.4:1")...)
	set(t, s, dns("10.0.0.1:53", "10.0.0.2:53"))
	if refused, rest := Refusals(s.Set([]service.Entry{dns("10.0.0.1:53", "10.0.0.2:53"), big})); len(refused) != 1 || rest != nil {
		t.Fatalf("want one refused, got %v %v", refused, rest)
	}
	if refused, rest := Refusals(s.Set([]service.Entry{dns("10.0.0.2:53"), big})); len(refused) != 1 || rest != nil {
		t.Fatalf("want one refused, got %v %v", refused, rest)
	}
	if told != 1 {
		t.Errorf("10.0.0.1:53 stopped: told %d times, want 1", told)
	}
}
