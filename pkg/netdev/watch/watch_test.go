// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestRun(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", peer, "eth0")
		here.Exec(t, "nft", "add", "table", "inet", "x")
		ctx, cancel := context.WithCancel(t.Context())
		events, done := make(chan Event, 1000), make(chan error, 1)
		go func() { done <- Run(ctx, func(ev Event) { events <- ev }) }()
		await := func(what string, topic Topic, act func()) Event {
			t.Helper()
			deadline := time.After(5 * time.Second)
			for {
				act()
				select {
				case ev := <-events:
					if ev.Topic == topic {
						return ev
					}
				case <-time.After(50 * time.Millisecond): // not listening yet
				case <-deadline:
					t.Fatalf("no event for %s", what)
				}
			}
		}
		await("link", Links, func() { here.Exec(t, "ip", "link", "set", "eth0", "alias", "x") })
		await("address", Links, func() {
			here.Exec(t, "ip", "addr", "replace", "10.1.0.1/24", "dev", "eth0", "valid_lft", "100", "preferred_lft", "100")
		})
		await("route", Routes, func() { here.Exec(t, "ip", "route", "replace", "10.2.0.0/24", "dev", "eth0") })
		await("rule", Rules, func() { here.Exec(t, "sh", "-c", "nft add table inet x; nft delete table inet x") })
		ev := await("neighbour", Neighbours, func() {
			here.Exec(t, "ip", "neigh", "replace", "10.1.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0")
		})
		for ev.Addr != netip.MustParseAddr("10.1.0.9") {
			ev = await("neighbour 10.1.0.9", Neighbours, func() {
				here.Exec(t, "ip", "neigh", "replace", "10.1.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0")
			})
		}
		if ev.Link != here.Index(t, "eth0") {
			t.Errorf("neighbour on link %d, want %d", ev.Link, here.Index(t, "eth0"))
		}
		for len(events) > 0 {
			<-events
		}
		netlab.Wire(t, here, "pb0123456789a", peer, "eth1") // a pod comes and goes
		here.Exec(t, "ip", "-6", "route", "add", "fd00::5/128", "dev", "pb0123456789a", "proto", "80")
		here.Exec(t, "ip", "route", "add", "10.9.0.5/32", "dev", "pb0123456789a", "proto", "80")
		here.Exec(t, "ip", "link", "del", "pb0123456789a")
		await("the mark", Links, func() { here.Exec(t, "ip", "link", "set", "eth0", "alias", "mark") })
		for len(events) > 0 {
			if ev := <-events; ev.Topic == Routes || ev.Topic == Lost {
				t.Errorf("a pod's coming and going tells %+v", ev)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil at the end of its context", err)
		}
	})
}
