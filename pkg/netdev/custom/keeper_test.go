// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// host is a namespace with a static NIC, a dynamic one, and a keeper at work.
type host struct {
	net    *netlab.Namespace
	keeper *Keeper
	stop   func()
}

func newHost(t *testing.T) *host {
	h := &host{net: netlab.Open(t, "/proc/self/ns/net")}
	peer := netlab.New(t)
	netlab.Wire(t, h.net, "eth0", peer, "eth0")
	netlab.Wire(t, h.net, "eth1", peer, "eth1")
	h.net.Exec(t, "ip", "addr", "add", "172.31.0.10/24", "dev", "eth0", "valid_lft", "3600", "preferred_lft", "3600")
	h.net.Exec(t, "ip", "link", "property", "add", "dev", "eth1", "altname", "Port3")
	h.address(t)
	h.start(t)
	return h
}

// address gives the static NIC its addresses, as the node's own configuration does.
func (h *host) address(t *testing.T) {
	h.net.Exec(t, "ip", "link", "set", "eth1", "up")
	h.net.Exec(t, "ip", "addr", "replace", "192.168.20.10/24", "dev", "eth1")
	h.net.Exec(t, "ip", "addr", "replace", "fd00:20::10/64", "dev", "eth1", "nodad")
}

// start starts an agent's keeper; what one before stored is there.
func (h *host) start(t *testing.T) {
	h.keeper = New(Options{Store: Store{Path: "/var/lib/patchbay/routes.db"}, IsNode: true, Note: func(err error) {
		if err != nil {
			t.Log(err)
		}
	}})
	ctx, cancel := context.WithCancel(context.Background()) // it outlives the subtest
	done := make(chan error, 1)
	go func() { done <- h.keeper.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// routes are the custom routes in the kernel.
func (h *host) routes(t *testing.T) string {
	return h.net.Exec(t, "sh", "-c", "ip route show proto 81; ip -6 route show proto 81")
}

// awaits waits, a second at most, until the kernel has the route.
func (h *host) awaits(t *testing.T, route string) {
	t.Helper()
	began := time.Now()
	netlab.WaitFor(t, time.Second, "route "+route, func() error {
		if got := h.routes(t); !strings.Contains(got, route) {
			return fmt.Errorf("routes are %q", got)
		}
		return nil
	})
	t.Logf("%s: in %v", route, time.Since(began).Round(time.Millisecond))
}

func TestKeeper(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		h, after := newHost(t), netlab.New(t)
		four := Record{Route: route("Port3", "192.168.60.0/24", "192.168.20.1", 100)}
		six := Record{Route: route("eth1", "fd00:60::/64", "fd00:20::1", 1024)}
		single := Record{Route: route("eth1", "192.168.61.7/32", "", 7)}
		for _, r := range []Record{four, six, single, four} {
			if v, err := h.keeper.Add(r); err != nil || v.State != Applied {
				t.Fatalf("add %s: %+v, %v", r.Route, v, err)
			}
		}
		all := []string{"192.168.60.0/24 via 192.168.20.1 dev eth1", "fd00:60::/64 via fd00:20::1 dev eth1", "192.168.61.7 dev eth1"}
		for _, r := range all {
			h.awaits(t, r)
		}

		t.Run("foreign removal", func(t *testing.T) {
			h.net.Exec(t, "ip", "route", "flush", "proto", "81")
			h.net.Exec(t, "ip", "-6", "route", "flush", "proto", "81")
			for _, r := range all {
				h.awaits(t, r)
			}
		})
		t.Run("interface flap", func(t *testing.T) {
			h.net.Exec(t, "ip", "link", "set", "eth1", "down")
			netlab.WaitFor(t, time.Second, "the word that eth1 is down", func() error {
				if v := h.keeper.List()[0]; v.State != Waiting || v.Message != "Port3 is down" {
					return fmt.Errorf("verdict %+v", v)
				}
				return nil
			})
			h.address(t)
			for _, r := range all {
				h.awaits(t, r)
			}
		})
		t.Run("reboot", func(t *testing.T) {
			h.stop()
			h.net.Exec(t, "ip", "link", "del", "eth1")
			netlab.Wire(t, h.net, "eth1", after, "eth0")
			h.start(t)
			h.net.Exec(t, "ip", "link", "property", "add", "dev", "eth1", "altname", "Port3")
			h.address(t)
			for _, r := range all {
				h.awaits(t, r)
			}
		})
		t.Run("the address becomes dynamic", func(t *testing.T) {
			h.net.Exec(t, "ip", "addr", "change", "192.168.20.10/24", "dev", "eth1", "valid_lft", "3600", "preferred_lft", "3600")
			netlab.WaitFor(t, time.Second, "the IPv4 routes' end", func() error {
				if got := h.routes(t); strings.Contains(got, "192.168") || !strings.Contains(got, "fd00:60::/64") {
					return errors.New(got)
				}
				return nil
			})
			h.net.Exec(t, "ip", "addr", "change", "192.168.20.10/24", "dev", "eth1", "valid_lft", "forever", "preferred_lft", "forever")
			h.awaits(t, all[0])
		})
		t.Run("objects", func(t *testing.T) {
			object := Record{Route: route("eth1", "10.5.0.0/16", "192.168.20.1", 9), Object: "plant"}
			if err := h.keeper.Replace(func(now []Record) []Record { return append(now, object) }); err != nil {
				t.Fatal(err)
			}
			h.awaits(t, "10.5.0.0/16 via 192.168.20.1")
			given := func(now []Record) []Record {
				return slices.DeleteFunc(now, func(r Record) bool { return r.Object != "" })
			}
			if err := h.keeper.Replace(given); err != nil || strings.Contains(h.routes(t), "10.5.0.0") {
				t.Errorf("left: %v %s", err, h.routes(t))
			}
		})
		t.Run("remove", func(t *testing.T) {
			if _, err := h.keeper.Remove("eth1", single.Dst); err != nil || strings.Contains(h.routes(t), all[2]) {
				t.Errorf("remove: %v; left:\n%s", err, h.routes(t))
			}
			if _, err := h.keeper.Remove("eth1", single.Dst); !errors.Is(err, ErrUnknown) {
				t.Errorf("remove again: %v, want ErrUnknown", err)
			}
			if v := h.keeper.List(); len(v) != 2 {
				t.Errorf("left: %+v", v)
			}
		})
		h.stop()
	})
}

// What is refused leaves kernel and disk as they were.
func TestRefusalsChangeNothing(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		h := newHost(t)
		defer h.stop()
		if _, err := h.keeper.Add(Record{Route: route("eth1", "192.168.60.0/24", "192.168.20.1", 100)}); err != nil {
			t.Fatal(err)
		}
		h.net.Route(t, "10.7.0.0/16", netip.MustParseAddr("172.31.0.1"), "eth0")
		h.net.Exec(t, "ip", "route", "add", "10.8.0.0/16", "via", "172.31.0.1", "metric", "100")
		all := func() string {
			return h.net.Exec(t, "sh", "-c", "ip route show table all; ip -6 route show table all | grep -v -e fe80 -e anycast; cat /var/lib/patchbay/routes.db")
		}
		before := all()
		for _, tt := range []struct {
			route Route
			want  string
		}{
			{route("eth0", "10.1.0.0/16", "172.31.0.1", 100), "dynamic IPv4 address"},
			{route("eth1", "10.1.0.0/16", "172.31.0.1", 100), "not on the link"},
			{route("eth9", "10.1.0.0/16", "172.31.0.1", 100), "no interface eth9"},
			{route("eth1", "192.168.60.0/24", "192.168.20.1", 50), "one custom route per interface"},
			{route("eth1", "10.8.0.0/16", "192.168.20.1", 100), "set by another program"},
		} {
			_, err := h.keeper.Add(Record{Route: tt.route})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("add %s: %v, want %q", tt.route, err, tt.want)
			}
		}
		if after := all(); after != before {
			t.Errorf("changed from\n%s\nto\n%s", before, after)
		}
	})
}
